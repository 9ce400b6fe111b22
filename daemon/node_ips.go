package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/cidrs"
)

// parseNodeIPs reads one address, or two of different IP families.
func parseNodeIPs(value string) ([]netip.Addr, error) {
	if value == "" {
		return nil, nil
	}
	var all []netip.Addr
	for one := range strings.SplitSeq(value, ",") {
		a, err := netip.ParseAddr(strings.TrimSpace(one))
		if err != nil || a.IsUnspecified() || a.IsLoopback() || a.Zone() != "" || a.Is6() && a.IsLinkLocalUnicast() {
			return nil, fmt.Errorf("--node-ip %q: not an address that other nodes can reach this machine at", value)
		}
		all = append(all, a.Unmap())
	}
	if len(all) > 2 || len(all) == 2 && all[0].Is6() == all[1].Is6() {
		return nil, fmt.Errorf("--node-ip %q: more than one address of an IP family; name one of each at most", value)
	}
	return all, nil
}

// nodeIP is the node's own address, of those found or given.
func (n *settledNode) nodeIP() netip.Addr { return n.nodeIPs[0] }

// nodeIPOf is the node's address of an IP family; not valid if it has none.
func (n *settledNode) nodeIPOf(is6 bool) netip.Addr {
	for _, a := range n.nodeIPs {
		if a.Is6() == is6 {
			return a
		}
	}
	return netip.Addr{}
}

// settleNodeIPs has the node have addresses that go with a cluster of those ranges: of its IP families alone, and of the first, by which nodes
// and servers know each other. Where the user gave none they are found; a machine need have none of the second family. It can be
// repeated.
func (n *settledNode) settleNodeIPs(r instance.Ranges) error {
	families := r.Cluster.Families()
	if len(n.nodeIPs) > 0 {
		stranger := slices.ContainsFunc(n.nodeIPs, func(a netip.Addr) bool { return !slices.Contains(families, a.Is6()) })
		if stranger || !n.nodeIPOf(families[0]).IsValid() {
			return fmt.Errorf("--node-ip %q: Pods of this cluster are in %s; name this machine's %s address%s, or leave the flag out",
				strings.Join(textsOf(n.nodeIPs), ","), r.Cluster, familyName(families[0]), map[bool]string{true: ", and an address of the other IP family at most"}[len(families) == 2])
		}
		return nil
	}
	for i, is6 := range families {
		a, err := machineAddress(is6, r)
		switch {
		case err == nil:
			n.nodeIPs = append(n.nodeIPs, a)
		case i == 0:
			return err
		}
	}
	return nil
}

// familyName is what people call an IP family.
func familyName(is6 bool) string {
	if is6 {
		return "IPv6"
	}
	return "IPv4"
}

// claimRanges takes the cluster's addresses for the data directory, which then keeps them: so the machine's own are looked for, and what the
// user gave is checked, before.
func (s *settled) claimRanges(i instance.Instance, used []netip.Prefix) (instance.Ranges, error) {
	will, made, err := i.Ranges()
	if err != nil {
		return instance.Ranges{}, err
	}
	if !made {
		will = s.want
	}
	if len(will.Cluster) == 0 {
		will = instance.Usual()
	}
	if err := s.checkBind(will.Cluster); err != nil {
		return instance.Ranges{}, err
	}
	if err := s.settleNodeIPs(will); err != nil {
		if !made && len(s.want.Cluster) == 0 && len(s.nodeIPs) == 0 {
			if _, err6 := machineAddress(true, will); err6 == nil {
				err = fmt.Errorf("%w; for a cluster of IPv6 alone name its networks: %s", err, example([]bool{true}))
			}
		}
		return instance.Ranges{}, err
	}
	return i.ClaimRanges(s.want, used)
}

// checkBind checks that an address at which Pods are to reach the API is of the IP family of Service kubernetes.
func (s *settled) checkBind(cluster cidrs.List) error {
	is6 := cluster.First().Addr().Is6()
	if s.bind.IsUnspecified() || s.bind.IsLoopback() || s.bind.Is6() == is6 {
		return nil
	}
	return fmt.Errorf("--bind-address %s: Pods of this cluster are in %s and reach the API at an %s address; give this machine's, or leave the flag out to serve on all", s.bind, cluster, familyName(is6))
}

// host is where the API and the kubelet listen. All addresses of both IP families are those of IPv6, where the node has it first: on machines
// without 127.0.0.1 Go takes 0.0.0.0 for IPv4's alone.
func (s *settled) host() netip.Addr {
	if s.bind.IsUnspecified() && s.nodeIP().Is6() {
		return netip.IPv6Unspecified()
	}
	return s.bind
}

// loopback is the machine's own address for itself, of the IP family that the node has first.
func (s *settled) loopback() netip.Addr {
	if s.nodeIP().Is6() {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

func textsOf(addresses []netip.Addr) []string {
	texts := make([]string, len(addresses))
	for i, a := range addresses {
		texts[i] = a.String()
	}
	return texts
}

// netIPs are the addresses as package net has them.
func netIPs(addresses []netip.Addr) []net.IP {
	ips := make([]net.IP, len(addresses))
	for i, a := range addresses {
		ips[i] = a.AsSlice()
	}
	return ips
}
