package network

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/internal/netdump"
	"github.com/peapod/peapod/network/nft"
)

// surveyEvery is how old a look at all that the kernel has of the overlay must be for a change to bring another: a change costs
// what it changes, and what somebody else has removed or added is put right in the end.
const surveyEvery = 10 * time.Minute

// overlayState is what the overlay is to be, and how far the kernel has it.
type overlayState struct {
	// wanted are the nodes by their Pods' network; there is what may have been written: removing what the kernel
	// has not is no error.
	wanted, there map[netip.Prefix]Peer
	// unwritten are the networks whose change has not been written.
	unwritten map[netip.Prefix]struct{}
	// names is what the table of nodes' names has (see overlay_nodes.go), empty if there is none, nil if that is not known.
	names map[string]nft.Value
	// surveyed is when all that the kernel has was compared with what is wanted.
	surveyed time.Time
}

// want takes changes.
func (s *overlayState) want(changes map[netip.Prefix]Peer) {
	if s.wanted == nil {
		s.wanted, s.there, s.unwritten = map[netip.Prefix]Peer{}, map[netip.Prefix]Peer{}, map[netip.Prefix]struct{}{}
	}
	for cidr, p := range changes {
		if p.IP.IsValid() {
			s.wanted[cidr] = p
		} else {
			delete(s.wanted, cidr)
		}
		s.unwritten[cidr] = struct{}{}
	}
}

// reaches says whether the overlay can lead to a Pod network: it is of an IP family of this node's, and shares no address with them.
func (n *Network) reaches(cidr netip.Prefix) error {
	if own := n.ownCIDR(cidr.Addr().Is6()); !own.IsValid() || cidr.Overlaps(own) {
		return fmt.Errorf("its Pod network %s does not go with this node's, %s", cidr, cidrs.List(n.cfg.NodeCIDRs))
	}
	return nil
}

// ChangePeers makes the overlay lead to other nodes than before: to each Pod network among changes, which the overlay reaches, at
// its node, and to no node where that is zero. Other networks stay as they were, but for the first call, after which the overlay leads
// nowhere else. What fails is tried again by the next call, whatever that changes. Without nodes there is no device.
func (n *Network) ChangePeers(ctx context.Context, changes map[netip.Prefix]Peer) error {
	n.overlaying.Lock()
	defer n.overlaying.Unlock()
	if n.cfg.Overlay.VNI == 0 {
		return nil
	}
	s := &n.overlay
	s.want(changes)
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(s.wanted) == 0 {
		if err := removeLink(n.overlayName()); err != nil {
			return err
		}
		clear(s.there)
		clear(s.unwritten)
		return n.nameNodes(nil)
	}
	link, made, err := n.overlayDevice()
	if err != nil {
		return fmt.Errorf("make overlay: %w", err)
	}
	survey := made || time.Since(s.surveyed) > surveyEvery
	if survey {
		for cidr := range s.wanted {
			s.unwritten[cidr] = struct{}{}
		}
	}
	var errs []error
	changed := slices.Collect(maps.Keys(s.unwritten))
	for _, cidr := range changed {
		if err := n.writePeer(link, cidr); err != nil {
			errs = append(errs, err)
			continue
		}
		delete(s.unwritten, cidr)
	}
	errs = append(errs, n.nameNodes(changed))
	if survey {
		if err := n.removeStrangers(link); err != nil {
			errs = append(errs, err)
		} else {
			s.surveyed = time.Now()
		}
	}
	return errors.Join(errs...)
}

// writePeer has the kernel lead to a Pod network as is wanted.
func (n *Network) writePeer(link netlink.Link, cidr netip.Prefix) error {
	s := &n.overlay
	want, wanted := s.wanted[cidr]
	if was, written := s.there[cidr]; written && (was.IP != want.IP || was.First != want.First) {
		if err := n.removePeer(link, was); err != nil {
			return fmt.Errorf("remove what leads to node %s: %w", was.Name, err)
		}
		delete(s.there, cidr)
	}
	if !wanted {
		return nil
	}
	s.there[cidr] = want
	if err := n.addPeer(link, want); err != nil {
		return fmt.Errorf("lead to node %s: %w", want.Name, err)
	}
	return nil
}

// peerEntries are how the kernel leads to a node: a route to its Pods by its address in the overlay, at which hardware address that
// is, and on which machine.
func (n *Network) peerEntries(link netlink.Link, p Peer) (route *netlink.Route, neighbour, forward *netlink.Neigh) {
	index, gw, mac := link.Attrs().Index, gateway(p.CIDR).AsSlice(), overlayAddr(n.cfg.Overlay.VNI, p.First)
	route = &netlink.Route{LinkIndex: index, Dst: &net.IPNet{IP: p.CIDR.Addr().AsSlice(), Mask: net.CIDRMask(p.CIDR.Bits(), p.CIDR.Addr().BitLen())},
		Gw: gw, Flags: int(netlink.FLAG_ONLINK), Src: gateway(n.ownCIDR(p.CIDR.Addr().Is6())).AsSlice()}
	neighbour = &netlink.Neigh{LinkIndex: index, State: netlink.NUD_PERMANENT, Type: unix.RTN_UNICAST, IP: gw, HardwareAddr: mac}
	forward = &netlink.Neigh{LinkIndex: index, Family: unix.AF_BRIDGE, State: netlink.NUD_PERMANENT, Flags: netlink.NTF_SELF,
		IP: p.IP.AsSlice(), HardwareAddr: mac}
	return route, neighbour, forward
}

// addPeer writes down how to get to a node.
func (n *Network) addPeer(link netlink.Link, p Peer) error {
	route, neighbour, forward := n.peerEntries(link, p)
	if err := netlink.NeighSet(forward); err != nil {
		return fmt.Errorf("write forwarding entry: %w", err)
	}
	if err := netlink.NeighSet(neighbour); err != nil {
		return fmt.Errorf("write neighbour: %w", err)
	}
	if err := netlink.RouteReplace(route); err != nil {
		return fmt.Errorf("add route to %s: %w", p.CIDR, err)
	}
	return nil
}

// removePeer removes what addPeer writes. It can be repeated. What leads to the machine goes with the node's first network.
func (n *Network) removePeer(link netlink.Link, p Peer) error {
	route, neighbour, forward := n.peerEntries(link, p)
	err := errors.Join(gone(netlink.RouteDel(route)), gone(netlink.NeighDel(neighbour)))
	if p.CIDR == p.First {
		err = errors.Join(err, gone(netlink.NeighDel(forward)))
	}
	return err
}

// removeStrangers removes what leads to nodes that are not wanted, whoever wrote it.
func (n *Network) removeStrangers(link netlink.Link) error {
	index := link.Attrs().Index
	gateways, machines := map[string]bool{}, map[string]bool{}
	for _, p := range n.overlay.wanted {
		gateways[gateway(p.CIDR).String()] = true
		machines[overlayAddr(n.cfg.Overlay.VNI, p.First).String()+" "+p.IP.String()] = true
	}
	var errs []error
	for _, own := range n.cfg.NodeCIDRs {
		family := familyOf(own.Addr().Is6())
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
