package network_test

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"testing"

	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
)

// A Pod sees the node that connects to it from elsewhere by its address on the wire, and other nodes' Pods by theirs; answers find back.
func TestNodesHaveTheirAddress(t *testing.T) {
	t.Run("IPv4", func(t *testing.T) { nodesHaveTheirAddress(t, "10.244.%d.0/24", "192.0.2.%d") })
	t.Run("IPv6", func(t *testing.T) { nodesHaveTheirAddress(t, "fd00:244:0:%d::/64", "2001:db8::%d") })
}

// nodesHaveTheirAddress is given the Pod networks and the addresses of nodes, by their numbers.
func nodesHaveTheirAddress(t *testing.T, cidrs, ips string) {
	cidr := func(i int) netip.Prefix { return netip.MustParsePrefix(fmt.Sprintf(cidrs, i)) }
	ip := func(i int) netip.Addr { return netip.MustParseAddr(fmt.Sprintf(ips, i)) }
	world := nettest.NewWorld(t)
	here, there := cidr(1), cidr(2)
	config := func(i int) network.Config {
		return network.Config{Instance: t.Name() + cidr(i).String(), NodeCIDRs: []netip.Prefix{cidr(i)}, Overlay: network.Overlay{VNI: 7, NodeIP: ip(i)}}
	}
	n := open(t, config(1))
	cfg := config(2)
	cfg.DataDir = t.TempDir()
	other, err := network.New(cfg)
	nettest.Must(t, err)
	peer := func(i int) network.Peer {
		return network.Peer{Name: fmt.Sprint("node-", i), IP: ip(i), CIDR: cidr(i), First: cidr(i)}
	}
	change := func(cidr netip.Prefix, p network.Peer) {
		t.Helper()
		nettest.Must(t, n.ChangePeers(t.Context(), map[netip.Prefix]network.Peer{cidr: p}))
	}
	pod, podIP, _ := addPod(t, n, "a")
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
		return other.ChangePeers(t.Context(), map[netip.Prefix]network.Peer{here: peer(1)})
	}))
	t.Cleanup(func() { nettest.Must(t, world.Do(func() error { return other.Uninstall(context.Background()) })) })
	change(there, peer(2))
	at := func(ip string) string { return net.JoinHostPort(ip, "8080") }
	for _, proto := range []string{"tcp", "udp"} {
		nettest.Listen(t, pod, proto, ":8080")
		nettest.Listen(t, client, proto, ":8080")
		nettest.WantFrom(t, "another node to a Pod", world, proto, at(podIP), ip(2).String())
		nettest.WantFrom(t, "another node's Pod to a Pod", client, proto, at(podIP), clientIP)
		nettest.WantFrom(t, "this node to a Pod elsewhere", nil, proto, at(clientIP), ip(1).String())
		nettest.WantFrom(t, "this node to its Pod", nil, proto, at(podIP), here.Addr().Next().String())
	}
	// Nodes come and go beside it.
	moved := peer(3)
	moved.IP = ip(4)
	for _, p := range []network.Peer{peer(3), moved, {}} {
		change(cidr(3), p)
		nettest.WantFrom(t, "another node, beside more", world, "tcp", at(podIP), ip(2).String())
	}
	tables := func() int {
		names, err := nft.Names("peapod_")
		nettest.Must(t, err)
		return len(names)
	}
	if got := tables(); got != 2 {
		t.Errorf("%d tables with another node, want 2", got)
	}
	change(there, network.Peer{})
	if got := tables(); got != 1 {
		t.Errorf("%d tables without other nodes, want 1", got)
	}
	// The next process knows nothing of what this one wrote.
	change(there, peer(2))
	nettest.Must(t, open(t, config(1)).ChangePeers(t.Context(), nil))
	if got := tables(); got != 1 {
		t.Errorf("%d tables after a start without other nodes, want 1", got)
	}
}
