package network_test

import (
	"context"
	"net/netip"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/network/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

func open(t *testing.T, cfg network.Config) *network.Network {
	t.Helper()
	if cfg.DataDir == "" {
		cfg.DataDir = t.TempDir()
	}
	if cfg.Instance == "" {
		cfg.Instance = t.Name()
	}
	n, err := network.New(cfg)
	nettest.Must(t, err)
	nettest.Must(t, n.Open(t.Context()))
	t.Cleanup(func() {
		if err := n.Uninstall(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return n
}

func dual() network.Config {
	return network.Config{NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:244:3::/64")}}
}

// addPod makes a namespace and its network.
func addPod(t *testing.T, n *network.Network, id string, ports ...*runtimeapi.PortMapping) (ns *nettest.Namespace, v4, v6 string) {
	t.Helper()
	ns = nettest.NewNamespace(t)
	addrs, err := n.Setup(t.Context(), id, ns.Path, ports)
	nettest.Must(t, err)
	if len(addrs) == 2 {
		v6 = addrs[1].String()
	}
	return ns, addrs[0].String(), v6
}
