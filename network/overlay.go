package network

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/netdump"
)

// Overlay carries packets between the Pods of several nodes: over a VXLAN device, in UDP. What the device must know of the
// other nodes is written into the kernel when it is learnt from the API; nothing is flooded and nothing is learnt from
// packets. A node's address in the overlay follows from its Pod network, so that nobody has to publish it.
//
// The packets are not encrypted, and the wire between the nodes is trusted: who can send to the port from anywhere can
// send to Pods. A firewall should let it in from nodes only.
type Overlay struct {
	// VNI is the number of the cluster's overlay, 24 bits, the same on all nodes. 0: there is none.
	VNI int
	// NodeIP is this node's address on the wire.
	NodeIP netip.Addr
	// Port is that of UDP, the same on all nodes; 0 means 8472.
	Port int
}

// overlayPort is the one that Linux uses by default.
const overlayPort = 8472

// overlayOverhead is how many bytes the overlay's headers take of the wire's MTU, over IPv4 and over IPv6.
func (o Overlay) overhead() int {
	switch {
	case o.VNI == 0:
		return 0
	case o.NodeIP.Is6():
		return 70
	}
	return 50
}

// Peer is another node.
type Peer struct {
	Name string
	// IP is its address on the wire.
	IP netip.Addr
	// CIDR are the addresses of its Pods.
	CIDR netip.Prefix
}

func (n *Network) overlayName() string { return n.prefix + "vx" }

// overlayAddr is the hardware address in the overlay of the node with those Pods: the same for whoever asks.
func overlayAddr(vni int, cidr netip.Prefix) net.HardwareAddr {
	return hardwareAddr(fmt.Sprintf("overlay %d %s", vni, cidr.Masked()))
}

// SetPeers makes the overlay lead to exactly these nodes. It can be repeated; without peers there is no device. A peer of
// another IP family than this node's Pods is left out, and of two that claim the same addresses the first counts.
func (n *Network) SetPeers(ctx context.Context, peers []Peer) error {
	n.overlaying.Lock()
	defer n.overlaying.Unlock()
	if n.cfg.Overlay.VNI == 0 {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	own := n.cfg.NodeCIDRs[0]
	want := map[netip.Prefix]Peer{}
	var errs []error
	for _, p := range peers {
		p.CIDR = p.CIDR.Masked()
		if p.CIDR.Addr().Is6() != own.Addr().Is6() || p.CIDR.Overlaps(own) {
			errs = append(errs, fmt.Errorf("leave out node %s: its Pod network %s does not go with this node's, %s", p.Name, p.CIDR, own))
			continue
		}
		if first, ok := want[p.CIDR]; ok {
			errs = append(errs, fmt.Errorf("leave out node %s: node %s has its Pod network %s", p.Name, first.Name, p.CIDR))
			continue
		}
		want[p.CIDR] = p
	}
	if len(want) == 0 {
		return errors.Join(append(errs, removeLink(n.overlayName()))...)
	}
	link, err := n.overlayDevice()
	if err != nil {
		return errors.Join(append(errs, fmt.Errorf("make overlay: %w", err))...)
	}
	for _, p := range want {
		if err := n.addPeer(link, p); err != nil {
			errs = append(errs, fmt.Errorf("lead to node %s: %w", p.Name, err))
		}
	}
	if err := n.removePeers(link, want); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// overlayDevice returns the device, made anew where it is not as it should be.
func (n *Network) overlayDevice() (netlink.Link, error) {
	o, own := n.cfg.Overlay, n.cfg.NodeCIDRs[0]
	if o.Port == 0 {
		o.Port = overlayPort
	}
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU, attrs.HardwareAddr = n.overlayName(), n.mtu, overlayAddr(o.VNI, own)
	want := &netlink.Vxlan{LinkAttrs: attrs, VxlanId: o.VNI, SrcAddr: o.NodeIP.AsSlice(), Port: o.Port, Learning: false}
	link, err := netlink.LinkByName(attrs.Name)
	var absent netlink.LinkNotFoundError
	switch {
	case errors.As(err, &absent):
	case err != nil:
		return nil, fmt.Errorf("find interface %s: %w", attrs.Name, err)
	default:
		have, ok := link.(*netlink.Vxlan)
		if ok && have.VxlanId == want.VxlanId && have.Port == want.Port && have.SrcAddr.Equal(want.SrcAddr) &&
			bytes.Equal(have.HardwareAddr, want.HardwareAddr) && have.MTU == attrs.MTU && have.Flags&net.FlagUp != 0 {
			return link, n.nameOverlay(link)
		}
		if err := removeLink(attrs.Name); err != nil {
			return nil, err
		}
	}
	if err := netlink.LinkAdd(want); err != nil {
		return nil, fmt.Errorf("make interface %s: %w", attrs.Name, err)
	}
	if link, err = netlink.LinkByName(attrs.Name); err != nil {
		return nil, fmt.Errorf("find interface %s: %w", attrs.Name, err)
	}
	// Packets come the way that answers go; the guard looks at that, so the kernel's check may rest. Answers to what the host
	// sent from 127.0.0.1, by a node port there, come back by here; the guard keeps all else from that address.
	for name, value := range map[string]string{"rp_filter": "0", "route_localnet": "1"} {
		if _, err := setSysctl("ipv4/conf/"+attrs.Name+"/"+name, value); err != nil {
			return nil, err
		}
	}
	if err := n.nameOverlay(link); err != nil {
		return nil, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, fmt.Errorf("set %s up: %w", attrs.Name, err)
	}
	return link, nil
}

// nameOverlay gives the device the node's own address in its Pod network: what the host itself sends to Pods elsewhere
// comes from there, and answers find back.
func (n *Network) nameOverlay(link netlink.Link) error {
	a := gateway(n.cfg.NodeCIDRs[0])
	if err := netlink.AddrReplace(link, hostAddress(a)); err != nil {
		return fmt.Errorf("add address %s to the overlay: %w", a, err)
	}
	return nil
}

// addPeer writes down that a node's Pods are behind it, at which hardware address it is, and on which machine that is.
func (n *Network) addPeer(link netlink.Link, p Peer) error {
	index, gw, mac := link.Attrs().Index, gateway(p.CIDR), overlayAddr(n.cfg.Overlay.VNI, p.CIDR)
	forward := &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		IP: p.IP.AsSlice(), HardwareAddr: mac}
	if err := netlink.NeighSet(forward); err != nil {
		return fmt.Errorf("write forwarding entry: %w", err)
	}
	neighbour := &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: gw.AsSlice(), HardwareAddr: mac}
	if err := netlink.NeighSet(neighbour); err != nil {
		return fmt.Errorf("write neighbour: %w", err)
	}
	if err := netlink.RouteReplace(n.peerRoute(index, p.CIDR)); err != nil {
		return fmt.Errorf("add route to %s: %w", p.CIDR, err)
	}
	return nil
}

func (n *Network) peerRoute(index int, cidr netip.Prefix) *netlink.Route {
	return &netlink.Route{LinkIndex: index, Dst: &net.IPNet{IP: cidr.Addr().AsSlice(), Mask: net.CIDRMask(cidr.Bits(), cidr.Addr().BitLen())},
		Gw: gateway(cidr).AsSlice(), Flags: int(netlink.FLAG_ONLINK), Src: gateway(n.cfg.NodeCIDRs[0]).AsSlice()}
}

// removePeers removes what leads to nodes that are not wanted.
func (n *Network) removePeers(link netlink.Link, want map[netip.Prefix]Peer) error {
	index, family := link.Attrs().Index, netlink.FAMILY_V4
	if n.cfg.NodeCIDRs[0].Addr().Is6() {
		family = netlink.FAMILY_V6
	}
	gateways, machines := map[string]bool{}, map[string]bool{}
	for _, p := range want {
		gateways[gateway(p.CIDR).String()] = true
		machines[overlayAddr(n.cfg.Overlay.VNI, p.CIDR).String()+" "+p.IP.String()] = true
	}
	var errs []error
	routes, err := netdump.List(func() ([]netlink.Route, error) {
		return netlink.RouteListFiltered(family, &netlink.Route{LinkIndex: index}, netlink.RT_FILTER_OIF)
	})
	errs = append(errs, err)
	for _, r := range routes {
		if r.Gw != nil && !gateways[r.Gw.String()] {
			errs = append(errs, gone(netlink.RouteDel(&r)))
		}
	}
	neighbours, err := netdump.List(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, family) })
	errs = append(errs, err)
	for _, x := range neighbours {
		if x.State&netlink.NUD_PERMANENT != 0 && !x.IP.IsMulticast() && !gateways[x.IP.String()] {
			errs = append(errs, gone(netlink.NeighDel(&x)))
		}
	}
	forwards, err := netdump.List(func() ([]netlink.Neigh, error) { return netlink.NeighList(index, unix.AF_BRIDGE) })
	errs = append(errs, err)
	for _, x := range forwards {
		if x.IP != nil && !machines[x.HardwareAddr.String()+" "+x.IP.String()] {
			errs = append(errs, gone(netlink.NeighDel(&x)))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("remove what leads to nodes that are gone: %w", err)
	}
	return nil
}

// gone takes the absence of what is to be removed for success.
func gone(err error) error {
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		return nil
	}
	return err
}
