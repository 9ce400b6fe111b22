package network_test

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/netdump"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/network/nettest"
)

func overlaid(instance string) network.Config {
	return network.Config{Instance: instance, NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24")},
		Overlay: network.Overlay{VNI: 7, NodeIP: netip.MustParseAddr("192.0.2.1")}}
}

// node is the change that gives the i-th Pod network to a node at an address; no address takes it away.
func node(i int, ip string) map[netip.Prefix]network.Peer {
	cidr := netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 100 + byte(i/256), byte(i), 0}), 24)
	if ip == "" {
		return map[netip.Prefix]network.Peer{cidr: {}}
	}
	return map[netip.Prefix]network.Peer{cidr: {Name: fmt.Sprint("node-", i), IP: netip.MustParseAddr(ip), CIDR: cidr, First: cidr}}
}

// overlayDevice returns the overlay's device, nil if there is none.
func overlayDevice(t testing.TB) netlink.Link {
	t.Helper()
	all, err := netdump.List(netlink.LinkList)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(all, func(l netlink.Link) bool { return l.Type() == "vxlan" })
	if i < 0 {
		return nil
	}
	return all[i]
}

// wantPeers checks what the kernel leads to: Pod network, address in the overlay and machine of each node.
func wantPeers(t *testing.T, when string, want ...string) {
	t.Helper()
	link := overlayDevice(t)
	if link == nil {
		t.Fatalf("%s there is no overlay", when)
	}
	index := link.Attrs().Index
	routes, err := netdump.List(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	})
	nettest.Must(t, err)
	neighbours, err := netdump.List(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, netlink.FAMILY_V4) })
	nettest.Must(t, err)
	forwards, err := netdump.List(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, unix.AF_BRIDGE) })
	nettest.Must(t, err)
	var got []string
	entries := 0
	for _, r := range routes {
		if r.Gw == nil {
			continue
		}
		entries++
		for _, x := range neighbours {
			for _, f := range forwards {
				if x.IP.Equal(r.Gw) && f.HardwareAddr.String() == x.HardwareAddr.String() {
					got = append(got, fmt.Sprintf("%s %s", r.Dst, f.IP))
				}
			}
		}
	}
	slices.Sort(got)
	permanent := func(all []netlink.Neigh) int {
		return len(slices.DeleteFunc(all, func(x netlink.Neigh) bool { return x.State&netlink.NUD_PERMANENT == 0 || x.IP.IsMulticast() }))
	}
	if !slices.Equal(got, want) || entries != len(want) || permanent(neighbours) != len(want) || permanent(forwards) != len(want) {
		t.Errorf("%s the overlay leads to %s\nwant %s\nby %d routes, %d neighbours and %d machines",
			when, strings.Join(got, ", "), strings.Join(want, ", "), entries, permanent(neighbours), permanent(forwards))
	}
}

func TestOverlayFollowsChanges(t *testing.T) {
	cfg := overlaid(t.Name())
	cfg.DataDir = t.TempDir()
	n := open(t, cfg)
	change := func(changes map[netip.Prefix]network.Peer) {
		t.Helper()
		nettest.Must(t, n.ChangePeers(t.Context(), changes))
	}
	change(nil)
	if link := overlayDevice(t); link != nil {
		t.Fatalf("without other nodes there is %s", link.Attrs().Name)
	}
	change(node(1, "192.0.2.11"))
	change(node(2, "192.0.2.12"))
	change(node(3, "192.0.2.13"))
	wantPeers(t, "with three nodes", "10.100.1.0/24 192.0.2.11", "10.100.2.0/24 192.0.2.12", "10.100.3.0/24 192.0.2.13")
	change(node(2, "192.0.2.22"))
	change(node(3, ""))
	change(node(4, ""))
	wantPeers(t, "after one moved and one went", "10.100.1.0/24 192.0.2.11", "10.100.2.0/24 192.0.2.22")
	nettest.Must(t, netlink.LinkDel(overlayDevice(t)))
	change(nil)
	wantPeers(t, "after somebody has removed the device", "10.100.1.0/24 192.0.2.11", "10.100.2.0/24 192.0.2.22")

	// The next process knows nothing of what this one wrote.
	n = open(t, cfg)
	change(node(2, "192.0.2.32"))
	wantPeers(t, "after a restart with fewer nodes", "10.100.2.0/24 192.0.2.32")
	change(node(2, ""))
	if link := overlayDevice(t); link != nil {
		t.Errorf("after the last node went there is %s", link.Attrs().Name)
	}
	change(node(2, "192.0.2.32"))
	wantPeers(t, "after a node came again", "10.100.2.0/24 192.0.2.32")
}

// What the kernel refuses is tried again with the next change, and what else was asked is done.
func TestOverlayTriesAgain(t *testing.T) {
	cfg := overlaid(t.Name())
	n := open(t, cfg)
	nettest.Must(t, n.ChangePeers(t.Context(), node(1, "192.0.2.11")))
	// The peer's address in the overlay is the device's own for a while: a route by it is refused.
	link := overlayDevice(t)
	addr, err := netlink.ParseAddr("10.100.2.1/32")
	nettest.Must(t, err)
	nettest.Must(t, netlink.AddrAdd(link, addr))
	both := node(2, "192.0.2.12")
	for cidr, p := range node(3, "192.0.2.13") {
		both[cidr] = p
	}
	if err := n.ChangePeers(t.Context(), both); err == nil || !strings.Contains(err.Error(), "lead to node node-2") || strings.Contains(err.Error(), "node-3") {
		t.Fatalf("with the address taken: %v", err)
	}
	nettest.Must(t, netlink.AddrDel(link, addr))
	nettest.Must(t, n.ChangePeers(t.Context(), nil))
	wantPeers(t, "after the next call", "10.100.1.0/24 192.0.2.11", "10.100.2.0/24 192.0.2.12", "10.100.3.0/24 192.0.2.13")
}

// BenchmarkAddNodes leads to 5,000 nodes, one after the other.
func BenchmarkAddNodes(b *testing.B) {
	for b.Loop() {
		cfg := overlaid(b.Name())
		cfg.DataDir = b.TempDir()
		n, err := network.New(cfg)
		if err != nil {
			b.Fatal(err)
		}
		if err := n.Open(b.Context()); err != nil {
			b.Fatal(err)
		}
		for i := range 5000 {
			if err := n.ChangePeers(b.Context(), node(i, fmt.Sprintf("192.0.%d.%d", 2+i/256, i%256))); err != nil {
				b.Fatal(err)
			}
		}
		if err := n.Uninstall(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

// What fits the wire between the nodes is what counts, not what fits the way to the outside; unless the machine has no such address.
func TestMTUIsThatOfTheWireBetweenNodes(t *testing.T) {
	add := func(name string, mtu int, address string) netlink.Link {
		t.Helper()
		attrs := netlink.NewLinkAttrs()
		attrs.Name, attrs.MTU = name, mtu
		nettest.Must(t, netlink.LinkAdd(&netlink.Veth{LinkAttrs: attrs, PeerName: name + "-peer", PeerTxQLen: -1}))
		link, err := netlink.LinkByName(name)
		nettest.Must(t, err)
		t.Cleanup(func() { nettest.Must(t, netlink.LinkDel(link)) })
		nettest.Must(t, nettest.Configure(name, address))
		nettest.Must(t, nettest.Configure(name+"-peer"))
		return link
	}
	outside := add("outside", 1400, "198.51.100.1/24")
	add("wire", 9000, "192.0.2.1/24")
	add("wire6", 8000, "2001:db8::1/64")
	_, all, _ := net.ParseCIDR("0.0.0.0/0")
	nettest.Must(t, netlink.RouteAdd(&netlink.Route{LinkIndex: outside.Attrs().Index, Dst: all, Gw: net.IPv4(198, 51, 100, 2)}))
	for name, c := range map[string]struct {
		nodeIP string
		want   int
	}{"no overlay": {"", 1400}, "overlay": {"192.0.2.1", 8950}, "overlay of IPv6": {"2001:db8::1", 7930}, "unknown address": {"192.0.2.77", 1350}} {
		t.Run(name, func(t *testing.T) {
			cfg := overlaid(t.Name())
			cfg.Overlay.NodeIP, _ = netip.ParseAddr(c.nodeIP)
			if c.nodeIP == "" {
				cfg.Overlay = network.Overlay{}
			}
			n := open(t, cfg)
			pod, _, _ := addPod(t, n, "a")
			nettest.Must(t, pod.Do(func() error {
				link, err := netlink.LinkByName("eth0")
				if err == nil && link.Attrs().MTU != c.want {
					t.Errorf("the Pod has %d, want %d", link.Attrs().MTU, c.want)
				}
				return err
			}))
			if name != "overlay" && name != "overlay of IPv6" {
				return
			}
			nettest.Must(t, n.ChangePeers(t.Context(), node(1, map[bool]string{false: "192.0.2.11", true: "2001:db8::11"}[cfg.Overlay.NodeIP.Is6()])))
			if got := overlayDevice(t).Attrs().MTU; got != c.want {
				t.Errorf("the overlay has %d, want %d", got, c.want)
			}
		})
	}
}
