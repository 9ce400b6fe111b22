package network

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
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
	// CIDR are the addresses of its Pods of one IP family, masked.
	CIDR netip.Prefix
	// First is that network of the node's which comes first: its hardware address in the overlay follows from it.
	First netip.Prefix
}

func (n *Network) overlayName() string { return n.prefix + "vx" }

// overlayAddr is the hardware address in the overlay of the node with those Pods: the same for whoever asks.
func overlayAddr(vni int, cidr netip.Prefix) net.HardwareAddr {
	return hardwareAddr(fmt.Sprintf("overlay %d %s", vni, cidr.Masked()))
}

// overlayDevice returns the device, made anew where it is not as it should be, and says whether it was.
func (n *Network) overlayDevice() (device netlink.Link, made bool, err error) {
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
		return nil, false, fmt.Errorf("find interface %s: %w", attrs.Name, err)
	default:
		have, ok := link.(*netlink.Vxlan)
		if ok && have.VxlanId == want.VxlanId && have.Port == want.Port && have.SrcAddr.Equal(want.SrcAddr) &&
			bytes.Equal(have.HardwareAddr, want.HardwareAddr) && have.MTU == attrs.MTU && have.Flags&net.FlagUp != 0 {
			return link, false, n.nameOverlay(link)
		}
		if err := removeLink(attrs.Name); err != nil {
			return nil, false, err
		}
	}
	if err := netlink.LinkAdd(want); err != nil {
		return nil, false, fmt.Errorf("make interface %s: %w", attrs.Name, err)
	}
	if link, err = netlink.LinkByName(attrs.Name); err != nil {
		return nil, false, fmt.Errorf("find interface %s: %w", attrs.Name, err)
	}
	if err := n.tuneOverlay(attrs.Name); err != nil {
		return nil, false, err
	}
	if err := n.nameOverlay(link); err != nil {
		return nil, false, err
	}
	if err := netlink.LinkSetUp(link); err != nil {
		return nil, false, fmt.Errorf("set %s up: %w", attrs.Name, err)
	}
	return link, true, nil
}

// nameOverlay gives the device the node's own address in each of its Pod networks: what the host itself sends to Pods elsewhere
// comes from there, and answers find back.
func (n *Network) nameOverlay(link netlink.Link) error {
	for _, own := range n.cfg.NodeCIDRs {
		a := gateway(own)
		if err := netlink.AddrReplace(link, hostAddress(a)); err != nil {
			return fmt.Errorf("add address %s to the overlay: %w", a, err)
		}
	}
	return nil
}

// tuneOverlay sets what the device needs apart from the machine's defaults. Packets come the way that answers go; the guard looks at that, so
// the kernel's check may rest. Answers to what the host sent from 127.0.0.1, by a node port there, come back by here; the guard keeps
// all else from that address.
func (n *Network) tuneOverlay(name string) error {
	settings := map[string]string{"ipv4/conf/" + name + "/rp_filter": "0", "ipv4/conf/" + name + "/route_localnet": "1"}
	if n.ownCIDR(true).IsValid() {
		for setting, value := range routing6 {
			settings["ipv6/conf/"+name+"/"+setting] = value
		}
	}
	for setting, value := range settings {
		if _, err := setSysctl(setting, value); err != nil {
			return err
		}
	}
	return nil
}
