package network_test

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/internal/netdump"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/network/nettest"
)

// podLinks lists the interfaces and tables of all instances in the test's namespace.
func podLinks(t *testing.T) (links, tables []string) {
	t.Helper()
	all, err := netdump.List(netlink.LinkList)
	nettest.Must(t, err)
	for _, l := range all {
		if strings.HasPrefix(l.Attrs().Name, "pp") {
			links = append(links, l.Attrs().Name)
		}
	}
	conn, err := nftables.New()
	nettest.Must(t, err)
	list, err := conn.ListTables()
	nettest.Must(t, err)
	for _, table := range list {
		tables = append(tables, table.Name)
	}
	return links, tables
}

// TestRestart: a new process finds the Pods with their network, and Reconcile removes those that are gone.
func TestRestart(t *testing.T) {
	world := nettest.NewWorld(t)
	cfg := dual()
	cfg.DataDir, cfg.Instance = t.TempDir(), "restart"
	n := open(t, cfg)
	port := &runtimeapi.PortMapping{Protocol: runtimeapi.Protocol_TCP, HostPort: 8080, ContainerPort: 80}
	kept, kept4, kept6 := addPod(t, n, "kept", port)
	_, gone4, _ := addPod(t, n, "gone")
	nettest.Listen(t, kept, "tcp", ":80")

	// A process died after it made an interface that the journal does not know any more.
	links, _ := podLinks(t)
	orphan := links[0][:7] + "deadbeef"
	attrs := netlink.NewLinkAttrs()
	attrs.Name = orphan
	nettest.Must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: "orphan", PeerTxQLen: -1}))

	// And somebody has thrown away all rules.
	conn, err := nftables.New()
	nettest.Must(t, err)
	conn.FlushRuleset()
	nettest.Must(t, conn.Flush())

	n = open(t, cfg)
	if links, _ := podLinks(t); slices.Contains(links, orphan) || len(links) != 2 {
		t.Errorf("after a restart there are %v", links)
	}
	nettest.WantFrom(t, "outside, after a restart", world, "tcp", "192.0.2.1:8080", "192.0.2.2")
	again, err := n.Setup(t.Context(), "kept", kept.Path, []*runtimeapi.PortMapping{port})
	nettest.Must(t, err)
	if again[0].String() != kept4 || again[1].String() != kept6 {
		t.Errorf("set up again: %v, before %s and %s", again, kept4, kept6)
	}
	nettest.WantFrom(t, "outside, after another setup", world, "tcp", "192.0.2.1:8080", "192.0.2.2")

	nettest.Must(t, n.Reconcile(t.Context(), []string{"kept"}))
	if links, _ := podLinks(t); len(links) != 1 {
		t.Errorf("after reconciliation there are %v", links)
	}
	if _, next4, _ := addPod(t, n, "next"); next4 == gone4 || next4 == kept4 {
		t.Errorf("the next Pod has the address %s", next4)
	}
	nettest.Must(t, n.Teardown(t.Context(), "kept"))
	nettest.Must(t, n.Teardown(t.Context(), "kept"))
	nettest.Must(t, n.Teardown(t.Context(), "never there"))
}

// TestDamagedJournal: a journal that is none keeps nothing from starting. Who had which address is not known any more, and nothing is left of
// it.
func TestDamagedJournal(t *testing.T) {
	for _, text := range []string{"", "{\"pods\": {\"a\"", "null", "{\"pods\": null}"} {
		cfg := dual()
		cfg.DataDir, cfg.Instance = t.TempDir(), "damaged"
		n := open(t, cfg)
		addPod(t, n, "a")
		nettest.Must(t, os.WriteFile(filepath.Join(cfg.DataDir, "pods.json"), []byte(text), 0o600))
		n = open(t, cfg)
		if addrs := n.Addresses("a"); addrs != nil {
			t.Errorf("%q: the sandbox has %v", text, addrs)
		}
		if links, _ := podLinks(t); len(links) != 0 {
			t.Errorf("%q: there are %v", text, links)
		}
		if _, v4, _ := addPod(t, n, "b"); v4 == "" || n.Addresses("b") == nil {
			t.Errorf("%q: the next Pod has %q", text, v4)
		}
		nettest.Must(t, n.Teardown(t.Context(), "b"))
	}
}

// TestRepair: whatever a killed process had done of Setup, the next call completes it.
func TestRepair(t *testing.T) {
	n := open(t, dual())
	pod, v4, _ := addPod(t, n, "a")
	nettest.Listen(t, pod, "tcp", ":80")
	for what, harm := range map[string]func() error{
		"interface": func() error {
			links, _ := podLinks(t)
			return netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: links[0]}})
		},
		"address": func() error {
			return pod.Do(func() error {
				link, err := netlink.LinkByName("eth0")
				if err != nil {
					return err
				}
				addr, err := netlink.ParseAddr(v4 + "/32")
				if err != nil {
					return err
				}
				return netlink.AddrDel(link, addr)
			})
		},
	} {
		nettest.Must(t, harm())
		if _, err := n.Setup(t.Context(), "a", pod.Path, nil); err != nil {
			t.Fatal(err)
		}
		nettest.WantFrom(t, "host, after losing the "+what, nil, "tcp", v4+":80", "10.244.3.1")
	}
	if _, err := n.Setup(t.Context(), "b", "/nowhere", nil); err == nil {
		t.Error("set up in a namespace that is not there")
	}
	nettest.Must(t, n.Teardown(t.Context(), "b"))
}

// TestInstances: two on one machine, and uninstalling one leaves the other alone.
func TestInstances(t *testing.T) {
	one := open(t, network.Config{Instance: "one", NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.1.0.0/24")}})
	two := open(t, network.Config{Instance: "two", NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.2.0.0/24")}})
	a, _, _ := addPod(t, one, "same-id")
	b, b4, _ := addPod(t, two, "same-id")
	nettest.Listen(t, b, "tcp", ":80")
	nettest.WantFrom(t, "Pod of another instance", a, "tcp", b4+":80", "")
	nettest.Must(t, one.Uninstall(t.Context()))
	nettest.Must(t, one.Uninstall(t.Context()))
	links, tables := podLinks(t)
	if len(links) != 1 || len(tables) != 1 {
		t.Errorf("left are %v and %v", links, tables)
	}
	nettest.WantFrom(t, "host", nil, "tcp", b4+":80", "10.2.0.1")
	nettest.Must(t, two.Uninstall(t.Context()))
	if links, tables := podLinks(t); len(links)+len(tables) != 0 {
		t.Errorf("left are %v and %v", links, tables)
	}
}

func TestManyAtOnce(t *testing.T) {
	n := open(t, dual())
	const count = 50
	paths := make([]string, count)
	for i := range paths {
		paths[i] = nettest.NewNamespace(t).Path
	}
	seen := sync.Map{}
	var wg sync.WaitGroup
	for i, path := range paths {
		wg.Go(func() {
			addrs, err := n.Setup(t.Context(), fmt.Sprint("pod", i), path, nil)
			if err != nil {
				t.Error(err)
				return
			}
			for _, a := range addrs {
				if other, taken := seen.LoadOrStore(a, i); taken {
					t.Errorf("Pods %d and %v have %s", i, other, a)
				}
			}
		})
	}
	wg.Wait()
	nettest.Must(t, n.Reconcile(t.Context(), nil))
	if links, _ := podLinks(t); len(links) != 0 {
		t.Errorf("left are %v", links)
	}
}

func TestAddresses(t *testing.T) {
	n := open(t, network.Config{NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.9.0.0/29")}})
	ns := nettest.NewNamespace(t)
	var got []string
	setup := func(id string) error {
		addrs, err := n.Setup(t.Context(), id, ns.Path, nil)
		if err == nil {
			got = append(got, addrs[0].String())
		}
		return err
	}
	for i := range 5 {
		nettest.Must(t, setup(fmt.Sprint(i)))
		if i == 1 {
			nettest.Must(t, n.Teardown(t.Context(), "1"))
		} else {
			defer n.Teardown(t.Context(), fmt.Sprint(i))
		}
		// The next sandbox has the namespace to itself.
		ns = nettest.NewNamespace(t)
	}
	nettest.Must(t, setup("again"))
	if want := []string{"10.9.0.2", "10.9.0.3", "10.9.0.4", "10.9.0.5", "10.9.0.6", "10.9.0.3"}; !slices.Equal(got, want) {
		t.Errorf("addresses %v, want %v", got, want)
	}
	if err := setup("too many"); !errors.Is(err, network.ErrNoAddress) || !strings.Contains(err.Error(), "10.9.0.0/29") {
		t.Errorf("with all addresses in use: %v", err)
	}
}

func TestConfig(t *testing.T) {
	for _, cidrs := range [][]string{nil, {"10.0.0.0/31"}, {"10.0.0.0/24", "10.1.0.0/24"}} {
		cfg := network.Config{Instance: "x", DataDir: "x"}
		for _, c := range cidrs {
			cfg.NodeCIDRs = append(cfg.NodeCIDRs, netip.MustParsePrefix(c))
		}
		if _, err := network.New(cfg); err == nil {
			t.Errorf("networks %v are accepted", cidrs)
		}
	}
}
