package daemon

import (
	"net"
	"net/netip"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/cidrs"
)

// A node's addresses are of the cluster's IP families, and one of the first; so is that which the API is bound to.
func TestNodeIPsGoWithTheCluster(t *testing.T) {
	const four, six, both, six4 = "10.244.0.0/16", "fd00:1::/56", "10.244.0.0/16,fd00:1::/56", "fd00:1::/56,10.244.0.0/16"
	for _, c := range []struct{ cluster, given, want string }{
		{four, "192.0.2.1", ""},
		{four, "2001:db8::1", "name this machine's IPv4 address, or"},
		{four, "192.0.2.1,2001:db8::1", "name this machine's IPv4 address, or"},
		{six, "2001:db8::1", ""},
		{six, "192.0.2.1", "name this machine's IPv6 address, or"},
		{both, "2001:db8::1,192.0.2.1", ""},
		{both, "192.0.2.1", ""},
		{both, "2001:db8::1", "name this machine's IPv4 address, and an address of the other IP family at most"},
		{six4, "2001:db8::1", ""},
		{six4, "192.0.2.1", "name this machine's IPv6 address, and an address of the other IP family at most"},
	} {
		cluster, err := cidrs.Parse(c.cluster)
		if err != nil {
			t.Fatal(err)
		}
		given, err := parseNodeIPs(c.given)
		if err != nil {
			t.Fatal(err)
		}
		n := settledNode{nodeIPs: given}
		err = n.settleNodeIPs(instance.Ranges{Cluster: cluster})
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), `--node-ip "`+c.given+`": Pods of this cluster are in `+c.cluster) || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s in a cluster of %s: got %v, want %q", c.given, c.cluster, err, c.want)
		}
		s := settled{bind: given[0]}
		if err, fits := s.checkBind(cluster), given[0].Is6() == cluster.First().Addr().Is6(); fits != (err == nil) {
			t.Errorf("--bind-address %s in a cluster of %s: %v", given[0], c.cluster, err)
		}
	}
	for _, all := range []string{"0.0.0.0", "::", "127.0.0.1", "::1"} {
		s := settled{bind: netip.MustParseAddr(all)}
		for _, cluster := range []string{four, six} {
			if err := s.checkBind(cidrs.Of(netip.MustParsePrefix(cluster))); err != nil {
				t.Error(err)
			}
		}
	}
}

// All addresses are those of both IP families, and clients of the machine use what it has for itself of the first.
func TestWhereTheAPIIs(t *testing.T) {
	for _, c := range []struct{ bind, node, host, url string }{
		{"0.0.0.0", "192.0.2.1", "0.0.0.0", "https://127.0.0.1:6443"},
		{"0.0.0.0", "2001:db8::1", "::", "https://[::1]:6443"},
		{"::", "2001:db8::1", "::", "https://[::1]:6443"},
		{"2001:db8::1", "2001:db8::1", "2001:db8::1", "https://[2001:db8::1]:6443"},
	} {
		s := settled{Options: DefaultOptions(), bind: netip.MustParseAddr(c.bind), settledNode: settledNode{nodeIPs: []netip.Addr{netip.MustParseAddr(c.node)}}}
		if got := s.host().String(); got != c.host {
			t.Errorf("%v: it listens on %s", c, got)
		}
		if got := clientURL(s); got != c.url {
			t.Errorf("%v: clients find it at %s", c, got)
		}
	}
}

// An address that an interface changes every day, or is to lose, gives way to one of the same network that stays.
func TestLastingAddress(t *testing.T) {
	addr := func(link, flags int, cidr string) netlink.Addr {
		ip, network, err := net.ParseCIDR(cidr)
		if err != nil {
			t.Fatal(err)
		}
		network.IP = ip
		return netlink.Addr{IPNet: network, LinkIndex: link, Flags: flags}
	}
	all := []netlink.Addr{
		addr(2, unix.IFA_F_TEMPORARY, "2001:db8::7777/64"), addr(2, unix.IFA_F_DEPRECATED, "2001:db8::1/64"), addr(3, 0, "2001:db8::2/64"),
		addr(2, 0, "2001:db8:1::2/64"), addr(2, 0, "2001:db8::3/64"), addr(4, unix.IFA_F_TEMPORARY, "2001:db8:4::1/64"),
		addr(2, unix.IFA_F_SECONDARY, "192.0.2.2/24"), addr(2, 0, "192.0.2.1/24"),
	}
	for a, want := range map[string]string{
		"2001:db8::7777": "2001:db8::3", "2001:db8::1": "2001:db8::3", "2001:db8::2": "2001:db8::2", "2001:db8:4::1": "2001:db8:4::1",
		"192.0.2.2": "192.0.2.2", "2001:db8:9::1": "2001:db8:9::1",
	} {
		if got := lasting(netip.MustParseAddr(a), all); got.String() != want {
			t.Errorf("in place of %s: %s, want %s", a, got, want)
		}
	}
}
