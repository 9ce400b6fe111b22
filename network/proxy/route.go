package proxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/network/nft"
)

// The host itself needs a way to cluster IPs before rules can translate them: a machine without a default route has none,
// and others might send from an address that endpoints cannot answer. The route leads to lo, where nothing ever goes.
const routeProtocol = 112 // marks the routes as ours

func (c *Config) addRoutes() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	for _, p := range c.Networks.Service {
		route := serviceRoute(lo, p)
		for _, ip := range c.NodeIPs {
			if ip.Is6() == p.Addr().Is6() {
				route.Src = ip.AsSlice()
			}
		}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to cluster IPs %s: %w", p, err)
		}
	}
	return nil
}

func serviceRoute(lo netlink.Link, p netip.Prefix) *netlink.Route {
	return &netlink.Route{
		LinkIndex: lo.Attrs().Index, Scope: netlink.SCOPE_LINK, Protocol: routeProtocol,
		Dst: &net.IPNet{IP: p.Masked().Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())},
	}
}

// Uninstall removes the rules and the routes to cluster IPs. It needs no Proxy and can be repeated.
func Uninstall(table string, service []netip.Prefix) error {
	var a nft.Applier
	errs := []error{a.Delete(table)}
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("find lo: %w", err))...)
	}
	for _, p := range service {
		if err := netlink.RouteDel(serviceRoute(lo, p)); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("remove route to cluster IPs %s: %w", p, err))
		}
	}
	return errors.Join(errs...)
}
