package network

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/netdump"
)

const podInterface = "eth0"

// connect makes the veth pair between the host and the namespace, with addresses and routes. What is there already stays,
// so that it can be repeated after a crash at any step.
func (n *Network) connect(p pod, netnsPath string) error {
	ns, err := netns.GetFromPath(netnsPath)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netnsPath, err)
	}
	defer ns.Close()
	inside, err := netlink.NewHandleAt(ns, unix.NETLINK_ROUTE)
	if err != nil {
		return fmt.Errorf("open network namespace %s: %w", netnsPath, err)
	}
	defer inside.Close()
	if err := n.addPair(p, inside, ns); err != nil {
		return err
	}
	if err := n.configurePod(p, inside); err != nil {
		return fmt.Errorf("configure interface of sandbox %s: %w", p.Sandbox, err)
	}
	if err := n.configureHost(p); err != nil {
		return fmt.Errorf("configure interface %s: %w", p.Interface, err)
	}
	return nil
}

// addPair makes the pair, unless the namespace has its end. A host end that leads elsewhere is of an earlier attempt.
func (n *Network) addPair(p pod, inside *netlink.Handle, ns netns.NsHandle) error {
	_, hostErr := netlink.LinkByName(p.Interface)
	_, podErr := inside.LinkByName(podInterface)
	if hostErr == nil && podErr == nil {
		return nil
	}
	if err := removeLink(p.Interface); err != nil {
		return err
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = p.Interface, n.mtu
	// Given addresses are left alone by tools that rename and renumber new interfaces.
	attrs.HardwareAddr = hardwareAddr("host " + n.cfg.Instance + p.Sandbox)
	veth := &netlink.Veth{
		LinkAttrs:        attrs,
		PeerName:         podInterface,
		PeerNamespace:    netlink.NsFd(ns),
		PeerHardwareAddr: hardwareAddr("pod " + n.cfg.Instance + p.Sandbox),
		PeerMTU:          uint32(n.mtu),
		PeerTxQLen:       -1,
	}
	if err := netlink.LinkAdd(veth); err != nil {
		return fmt.Errorf("make interface %s: %w", p.Interface, err)
	}
	return nil
}

// hardwareAddr is a locally administered address derived from text.
func hardwareAddr(text string) net.HardwareAddr {
	sum := sha256.Sum256([]byte(text))
	addr := net.HardwareAddr(sum[:6])
	addr[0] = addr[0]&^1 | 2
	return addr
}

func (n *Network) configurePod(p pod, inside *netlink.Handle) error {
	lo, err := inside.LinkByName("lo")
	if err != nil {
		return fmt.Errorf("find lo: %w", err)
	}
	if err := inside.LinkSetUp(lo); err != nil {
		return fmt.Errorf("set lo up: %w", err)
	}
	link, err := inside.LinkByName(podInterface)
	if err != nil {
		return fmt.Errorf("find %s: %w", podInterface, err)
	}
	for _, a := range p.Addresses {
		if err := inside.AddrReplace(link, hostAddress(a)); err != nil {
			return fmt.Errorf("add address %s: %w", a, err)
		}
	}
	if err := inside.LinkSetUp(link); err != nil {
		return fmt.Errorf("set %s up: %w", podInterface, err)
	}
	for i, a := range p.Addresses {
		gw := gateway(n.cfg.NodeCIDRs[i])
		index := link.Attrs().Index
		direct := &netlink.Route{LinkIndex: index, Dst: single(gw), Scope: netlink.SCOPE_LINK, Src: a.AsSlice()}
		if err := inside.RouteReplace(direct); err != nil {
			return fmt.Errorf("add route to %s: %w", gw, err)
		}
		all := &netlink.Route{LinkIndex: index, Dst: everything(a), Gw: gw.AsSlice(), Src: a.AsSlice()}
		if err := inside.RouteReplace(all); err != nil {
			return fmt.Errorf("add default route over %s: %w", gw, err)
		}
	}
	return nil
}

func (n *Network) configureHost(p pod) error {
	link, err := netlink.LinkByName(p.Interface)
	if err != nil {
		return fmt.Errorf("find it: %w", err)
	}
	if err := n.tune(p); err != nil {
		return err
	}
	for i := range p.Addresses {
		if err := netlink.AddrReplace(link, hostAddress(gateway(n.cfg.NodeCIDRs[i]))); err != nil {
			return fmt.Errorf("add the node's address: %w", err)
		}
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return fmt.Errorf("set it up: %w", err)
	}
	for i, a := range p.Addresses {
		gw := gateway(n.cfg.NodeCIDRs[i])
		route := &netlink.Route{LinkIndex: link.Attrs().Index, Dst: single(a), Scope: netlink.SCOPE_LINK, Src: gw.AsSlice()}
		if err := netlink.RouteReplace(route); err != nil {
			return fmt.Errorf("add route to %s: %w", a, err)
		}
	}
	return nil
}

// routing6 are an interface's settings of IPv6 that has the addresses which it is given, at once, and no others.
var routing6 = map[string]string{"disable_ipv6": "0", "accept_ra": "0", "accept_dad": "0", "forwarding": "1"}

// tune sets what the host end needs apart from the machine's defaults.
func (n *Network) tune(p pod) error {
	v6 := false
	for _, a := range p.Addresses {
		if a.Is6() {
			v6 = true
			continue
		}
		// Answers to what the host sent from 127.0.0.1 come back by here; the guard chain keeps Pods from using it.
		// The guard also checks source addresses, so the kernel's check, which depends on the machine's, may rest.
		for name, value := range map[string]string{"route_localnet": "1", "forwarding": "1", "rp_filter": "0"} {
			if _, err := setSysctl("ipv4/conf/"+p.Interface+"/"+name, value); err != nil {
				return err
			}
		}
	}
	settings := map[string]string{"disable_ipv6": "1"}
	if v6 {
		settings = routing6
	}
	for name, value := range settings {
		_, err := setSysctl("ipv6/conf/"+p.Interface+"/"+name, value)
		if err != nil && (v6 || !errors.Is(err, unix.ENOENT)) { // without IPv6 in the kernel there is nothing to set
			return err
		}
	}
	return nil
}

// hostAddress is an address without a network. IPv6 must not wait for duplicates to answer: there are none.
func hostAddress(a netip.Addr) *netlink.Addr {
	addr := &netlink.Addr{IPNet: single(a)}
	if a.Is6() {
		addr.Flags = unix.IFA_F_NODAD
	}
	return addr
}

func single(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: a.AsSlice(), Mask: net.CIDRMask(a.BitLen(), a.BitLen())}
}

func everything(a netip.Addr) *net.IPNet {
	return &net.IPNet{IP: make(net.IP, a.BitLen()/8), Mask: net.CIDRMask(0, a.BitLen())}
}

// removeLink removes an interface, and with it its peer, its addresses and routes. An absent one is no error.
func removeLink(name string) error {
	link, err := netlink.LinkByName(name)
	var absent netlink.LinkNotFoundError
	if errors.As(err, &absent) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find interface %s: %w", name, err)
	}
	if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) {
		return fmt.Errorf("remove interface %s: %w", name, err)
	}
	return nil
}

// removeLinks removes those interfaces of this instance that match.
func (n *Network) removeLinks(match func(name string) bool) error {
	links, err := netdump.List(netlink.LinkList)
	if err != nil {
		return fmt.Errorf("list interfaces: %w", err)
	}
	var errs []error
	for _, link := range links {
		if name := link.Attrs().Name; n.ours(name) && match(name) {
			errs = append(errs, removeLink(name))
		}
	}
	return errors.Join(errs...)
}

// findMTU returns how long packets of Pods may be: what fits the wire between the nodes with the overlay's headers, or without an overlay the
// way to the outside.
func (n *Network) findMTU() (int, error) {
	o := n.cfg.Overlay
	if o.VNI != 0 && o.NodeIP.IsValid() {
		wire, err := mtuAt(o.NodeIP)
		if err != nil {
			return 0, err
		}
		if wire != 0 {
			return wire - o.overhead(), nil
		}
	}
	outside, err := mtuOutside(n.cfg.NodeCIDRs[0].Addr().Is6())
	return outside - o.overhead(), err
}

// mtuAt is that of the interface which has the address; 0 where none has it, or one that leads to no wire, as lo.
func mtuAt(a netip.Addr) (int, error) {
	all, err := netdump.List(func() ([]netlink.Addr, error) { return netlink.AddrList(nil, familyOf(a.Is6())) })
	if err != nil {
		return 0, fmt.Errorf("list addresses: %w", err)
	}
	for _, have := range all {
		if !have.IP.Equal(a.AsSlice()) {
			continue
		}
		link, err := netlink.LinkByIndex(have.LinkIndex)
		if err != nil {
			return 0, fmt.Errorf("find the interface of address %s: %w", a, err)
		}
		if usable(link) {
			return link.Attrs().MTU, nil
		}
	}
	return 0, nil
}

// mtuOutside is that of the interface with the default route of an IP family, or the usual one.
func mtuOutside(is6 bool) (int, error) {
	const usual = 1500
	routes, err := netdump.List(func() ([]netlink.Route, error) { return netlink.RouteList(nil, familyOf(is6)) })
	if err != nil {
		return 0, fmt.Errorf("list routes: %w", err)
	}
	for _, r := range routes {
		if r.Dst != nil && !r.Dst.IP.IsUnspecified() || r.LinkIndex == 0 {
			continue
		}
		link, err := netlink.LinkByIndex(r.LinkIndex)
		if err != nil {
			return 0, fmt.Errorf("find the interface of the default route: %w", err)
		}
		if usable(link) {
			return link.Attrs().MTU, nil
		}
	}
	return usual, nil
}

// usable says whether IP packets of both families can be as long as the interface takes them.
func usable(link netlink.Link) bool {
	mtu := link.Attrs().MTU
	return mtu >= 1280 && mtu <= 65535
}

func familyOf(is6 bool) int {
	if is6 {
		return netlink.FAMILY_V6
	}
	return netlink.FAMILY_V4
}
