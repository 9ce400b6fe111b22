package proxy

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/network/nft"
)

// The host itself needs a way to cluster IPs before rules can translate them: a machine without a default route has none,
// and others might send from an address that endpoints cannot answer. The route leads to lo, where nothing ever goes.
const routeProtocol = 112 // marks the routes as Peapod's

// routeMetric tells the routes of one table's proxy from those of others on the machine. There is no other way to the same
// network, so it decides nothing.
func routeMetric(table string) int {
	h := fnv.New32a()
	h.Write([]byte(table)) // never fails
	return int(h.Sum32()>>1 | 1)
}

// addRoutes leads to the networks of cluster IPs. It can be repeated.
func (c *Config) addRoutes(networks []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	var errs []error
	for _, p := range networks {
		route := &netlink.Route{
			LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol, Priority: routeMetric(c.Table),
			Dst: &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
		}
		for _, ip := range c.NodeIPs {
			if ip.Is6() == p.Addr().Is6() {
				route.Src = ip.AsSlice()
			}
		}
		if err := netlink.RouteReplace(route); err != nil {
			errs = append(errs, fmt.Errorf("add route to cluster IPs %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

// dropRoutes removes the routes of a table's proxy, but those to keep. The ones to the networks own are its too if they have no
// metric of its own: those of earlier versions.
func dropRoutes(table string, own, keep []netip.Prefix) error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{LinkIndex: lo.Attrs().Index, Protocol: routeProtocol},
		netlink.RT_FILTER_OIF|netlink.RT_FILTER_PROTOCOL)
	if err != nil {
		return fmt.Errorf("list routes to cluster IPs: %w", err)
	}
	var errs []error
	for _, r := range routes {
		p, ok := destination(&r)
		marked := r.Priority == routeMetric(table)
		if !ok || marked && slices.Contains(keep, p) || !marked && !slices.Contains(own, p) {
			continue
		}
		if err := netlink.RouteDel(&r); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to cluster IPs %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}

func destination(r *netlink.Route) (netip.Prefix, bool) {
	if r.Dst == nil {
		return netip.Prefix{}, false
	}
	a, ok := netip.AddrFromSlice(r.Dst.IP)
	ones, _ := r.Dst.Mask.Size()
	return netip.PrefixFrom(a.Unmap(), ones), ok
}

// Uninstall removes the rules and the routes to cluster IPs. It needs no Proxy and can be repeated.
func Uninstall(table string, service []netip.Prefix) error {
	var a nft.Applier
	return errors.Join(a.Delete(table), dropRoutes(table, masked(service), nil))
}

func masked(all []netip.Prefix) []netip.Prefix {
	out := make([]netip.Prefix, len(all))
	for i, p := range all {
		out[i] = p.Masked()
	}
	return out
}
