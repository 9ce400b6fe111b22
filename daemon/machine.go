package daemon

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"

	"github.com/peapod/peapod/internal/netdump"
)

// machineAddress returns the address that other machines know this one by: the source of what leaves over the default
// route, or the first global address of an interface where there is none.
func machineAddress() (netip.Addr, error) {
	// Asking for the way to an address sends nothing. This one is reserved for documentation (RFC 5737).
	routes, err := netlink.RouteGet([]byte{192, 0, 2, 1})
	if err == nil {
		for _, r := range routes {
			if a, ok := netip.AddrFromSlice(r.Src.To4()); ok && !a.IsLoopback() {
				return a, nil
			}
		}
	}
	addrs, err := addresses()
	if err != nil {
		return netip.Addr{}, err
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok && ip.IsGlobalUnicast() {
			return ip, nil
		}
	}
	return netip.Addr{}, errors.New("this machine has no address but loopback: give it one, or name one with --node-ip")
}

func addresses() ([]netlink.Addr, error) {
	addrs, err := netdump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list addresses of this machine: %w", err)
	}
	return addrs, nil
}

// usedPrefixes lists the machine's addresses and routes, so that new ranges avoid them.
func usedPrefixes() ([]netip.Prefix, error) {
	var out []netip.Prefix
	addrs, err := addresses()
	if err != nil {
		return nil, err
	}
	for _, a := range addrs {
		if ip, ok := netip.AddrFromSlice(a.IP.To4()); ok {
			ones, _ := a.Mask.Size()
			out = append(out, netip.PrefixFrom(ip, ones).Masked())
		}
	}
	routes, err := netdump.List(func() ([]netlink.Route, error) { return netlink.RouteList(nil, netlink.FAMILY_V4) })
	if err != nil {
		return nil, fmt.Errorf("list routes of this machine: %w", err)
	}
	for _, r := range routes {
		if r.Dst == nil {
			continue
		}
		if ip, ok := netip.AddrFromSlice(r.Dst.IP.To4()); ok {
			ones, _ := r.Dst.Mask.Size()
			out = append(out, netip.PrefixFrom(ip, ones).Masked())
		}
	}
	return out, nil
}
