package network_test

import (
	"context"
	"net/netip"
	"testing"

	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
)

// A Pod sees the node that connects to it from elsewhere by its address on the wire, and other nodes' Pods by theirs; answers find back.
func TestNodesHaveTheirAddress(t *testing.T) {
	world := nettest.NewWorld(t)
	here, there := netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("10.244.1.0/24")
	n := open(t, overlaid(t.Name()))
	cfg := overlaid(t.Name() + "-other")
	cfg.DataDir, cfg.NodeCIDRs, cfg.Overlay.NodeIP = t.TempDir(), []netip.Prefix{there}, netip.MustParseAddr("192.0.2.2")
	other, err := network.New(cfg)
	nettest.Must(t, err)
	// lead has each lead to the other, which may have moved.
	lead := func(ip string) {
		t.Helper()
		nettest.Must(t, n.ChangePeers(t.Context(), map[netip.Prefix]network.Peer{there: {Name: "there", IP: netip.MustParseAddr(ip), CIDR: there}}))
	}
	pod, _, _ := addPod(t, n, "a")
	client := nettest.NewNamespace(t)
	var clientIP string
	nettest.Must(t, world.Do(func() error {
		if err := other.Open(t.Context()); err != nil {
			return err
		}
		addresses, err := other.Setup(t.Context(), "b", client.Path, nil)
		if err != nil {
			return err
		}
		clientIP = addresses[0].String()
		return other.ChangePeers(t.Context(), map[netip.Prefix]network.Peer{here: {Name: "here", IP: netip.MustParseAddr("192.0.2.1"), CIDR: here}})
	}))
	t.Cleanup(func() { nettest.Must(t, world.Do(func() error { return other.Uninstall(context.Background()) })) })
	lead("192.0.2.2")
	for _, proto := range []string{"tcp", "udp"} {
		nettest.Listen(t, pod, proto, ":8080")
		nettest.Listen(t, client, proto, ":8080")
		nettest.WantFrom(t, "another node to a Pod", world, proto, "10.244.0.2:8080", "192.0.2.2")
		nettest.WantFrom(t, "another node's Pod to a Pod", client, proto, "10.244.0.2:8080", clientIP)
		nettest.WantFrom(t, "this node to a Pod elsewhere", nil, proto, clientIP+":8080", "192.0.2.1")
		nettest.WantFrom(t, "this node to its Pod", nil, proto, "10.244.0.2:8080", "10.244.0.1")
	}
	// Nodes come and go beside it.
	nettest.Must(t, n.ChangePeers(t.Context(), node(1, "192.0.2.11")))
	nettest.Must(t, n.ChangePeers(t.Context(), node(1, "192.0.2.12")))
	nettest.WantFrom(t, "another node, beside more", world, "tcp", "10.244.0.2:8080", "192.0.2.2")
	nettest.Must(t, n.ChangePeers(t.Context(), node(1, "")))
	tables := func() int {
		names, err := nft.Names("peapod_")
		nettest.Must(t, err)
		return len(names)
	}
	if got := tables(); got != 2 {
		t.Errorf("%d tables with another node, want 2", got)
	}
	nettest.Must(t, n.ChangePeers(t.Context(), map[netip.Prefix]network.Peer{there: {}}))
	if got := tables(); got != 1 {
		t.Errorf("%d tables without other nodes, want 1", got)
	}
	// The next process knows nothing of what this one wrote.
	lead("192.0.2.2")
	nettest.Must(t, open(t, overlaid(t.Name())).ChangePeers(t.Context(), nil))
	if got := tables(); got != 1 {
		t.Errorf("%d tables after a start without other nodes, want 1", got)
	}
}
