package daemon

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/internal/netdump"
)

// machineAddress returns the address of an IP family that other machines know this one by: the source of what leaves over the default
// route, or the first global address of an interface where there is none: none of those that nodes give themselves for Pods, which are
// in the networks pods, and on lo.
func machineAddress(is6 bool, pods cidrs.List) (netip.Addr, error) {
	// Asking for the way to an address sends nothing. These are reserved for documentation (RFC 5737, RFC 3849).
	family, far := netlink.FAMILY_V4, netip.AddrFrom4([4]byte{192, 0, 2, 1})
	if is6 {
		family, far = netlink.FAMILY_V6, netip.MustParseAddr("2001:db8::1")
	}
	routes, err := netlink.RouteGet(far.AsSlice())
	if err == nil {
		for _, r := range routes {
			if a, ok := netip.AddrFromSlice(r.Src); ok && !a.Unmap().IsLoopback() && a.Unmap().Is6() == is6 {
				return a.Unmap(), nil
			}
		}
	}
	addrs, err := addresses(family)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if p, ok := prefixOf(a.IPNet); ok && p.Addr().IsGlobalUnicast() && a.Scope == unix.RT_SCOPE_UNIVERSE && !pods.Overlaps(p) {
			return p.Addr(), nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no address but loopback: give it one, or name one with --node-ip")
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
