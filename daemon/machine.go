package daemon

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/netdump"
)

// machineAddress returns the address of an IP family that other machines know this one by: the source of what leaves over the default
// route, or the first global address of an interface where there is none: none of those that nodes give themselves for Pods and for the
// cluster's DNS, which are in the cluster's ranges.
func machineAddress(is6 bool, cluster instance.Ranges) (netip.Addr, error) {
	// Asking for the way to an address sends nothing. These are reserved for documentation (RFC 5737, RFC 3849).
	family, far := netlink.FAMILY_V4, netip.AddrFrom4([4]byte{192, 0, 2, 1})
	if is6 {
		family, far = netlink.FAMILY_V6, netip.MustParseAddr("2001:db8::1")
	}
	own := func(a netip.Addr) bool {
		p := netip.PrefixFrom(a, a.BitLen())
		return cluster.Cluster.Overlaps(p) || cluster.Service.Overlaps(p)
	}
	addrs, err := addresses(family)
	if err != nil {
		return netip.Addr{}, err
	}
	if routes, err := netlink.RouteGet(far.AsSlice()); err == nil {
		for _, r := range routes {
			a, ok := netip.AddrFromSlice(r.Src)
			if a = a.Unmap(); ok && a.Is6() == is6 && !a.IsLoopback() && !(is6 && a.IsLinkLocalUnicast()) && !own(a) {
				return lasting(a, addrs), nil
			}
		}
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && p.Addr().IsGlobalUnicast() && a.Scope == unix.RT_SCOPE_UNIVERSE && !own(p.Addr()) {
			return lasting(p.Addr(), addrs), nil
		}
	}
	return netip.Addr{}, fmt.Errorf("this machine has no %s address but loopback: give it one, or name one with --node-ip", familyName(is6))
}

// lasting returns, in place of an IPv6 address that its interface changes every day (RFC 8981) or is to lose, one of the same network that stays,
// if there is one: machines prefer the former for what they send, but a node must be found again. It is a pure function.
func lasting(a netip.Addr, all []netlink.Addr) netip.Addr {
	passing := func(x netlink.Addr) bool { return x.Flags&(unix.IFA_F_TEMPORARY|unix.IFA_F_DEPRECATED) != 0 }
	at := slices.IndexFunc(all, func(x netlink.Addr) bool { return x.IPNet != nil && x.IP.Equal(a.AsSlice()) })
	if !a.Is6() || at < 0 || !passing(all[at]) {
		return a
	}
	for _, x := range all {
		if p, ok := prefixOf(x.IPNet); ok && x.LinkIndex == all[at].LinkIndex && !passing(x) && p.Contains(a) {
			return p.Addr()
		}
	}
	return a
}

func addresses(family int) ([]netlink.Addr, error) {
	addrs, err := netdump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, family) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of this machine: %w", err)
	}
	return addrs, nil
}

// prefixOf is an address with its network.
func prefixOf(n *net.IPNet) (netip.Prefix, bool) {
	if n == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(n.IP)
	ones, _ := n.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// usedPrefixes lists the machine's addresses and routes, so that new ranges avoid them.
func usedPrefixes() ([]netip.Prefix, error) {
	var out []netip.Prefix
	add := func(n *net.IPNet) {
		if p, ok := prefixOf(n); ok && !p.Addr().IsLinkLocalUnicast() && !p.Addr().IsMulticast() {
			out = append(out, p.Masked())
		}
	}
	for _, family := range []int{netlink.FAMILY_V4, netlink.FAMILY_V6} {
		addrs, err := addresses(family)
		if err != nil {
			return nil, err
		}
		for _, a := range addrs {
			add(a.IPNet)
		}
		routes, err := netdump.List(func() ([]netlink.Route, error) { return netlink.RouteList(nil, family) })
		if err != nil {
			return nil, fmt.Errorf("list routes of this machine: %w", err)
		}
		for _, r := range routes {
			add(r.Dst)
		}
	}
	return out, nil
}
