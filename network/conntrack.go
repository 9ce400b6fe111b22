package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/netdump"
)

// Connection tracking keeps sending the packets of a UDP flow where its first one went: to a Pod that is gone, or past a
// host port that is new, for as long as packets come. So such flows are forgotten. TCP ends by itself.

// forgetHostFlows forgets UDP flows to the Pod's host ports from before these led to it.
func forgetHostFlows(p pod) error {
	ports := map[uint16]bool{}
	for _, hp := range p.Ports {
		if hp.Protocol == unix.IPPROTO_UDP {
			ports[hp.HostPort] = true
		}
	}
	if len(ports) == 0 {
		return nil
	}
	return forgetFlows(p, func(f *netlink.ConntrackFlow) bool {
		if !ports[f.Forward.DstPort] {
			return false
		}
		for _, a := range p.Addresses {
			if f.Reverse.SrcIP.Equal(net.IP(a.AsSlice())) {
				return false // it leads here already
			}
		}
		return true
	})
}

// forgetPodFlows forgets UDP flows to and from the addresses of a Pod that is gone, when it had host ports.
func forgetPodFlows(p pod) error {
	udp := false
	for _, hp := range p.Ports {
		udp = udp || hp.Protocol == unix.IPPROTO_UDP
	}
	if !udp {
		return nil
	}
	return forgetFlows(p, func(f *netlink.ConntrackFlow) bool {
		for _, a := range p.Addresses {
			if f.Reverse.SrcIP.Equal(net.IP(a.AsSlice())) {
				return true
			}
		}
		return false
	})
}

type flowFilter func(*netlink.ConntrackFlow) bool

// MatchConntrackFlow makes the function a filter of the netlink library.
func (f flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	return flow.Forward.Protocol == unix.IPPROTO_UDP && f(flow)
}

func forgetFlows(p pod, match flowFilter) error {
	for _, a := range p.Addresses {
		family := netlink.InetFamily(unix.AF_INET)
		if a.Is6() {
			family = unix.AF_INET6
		}
		err := netdump.Repeat(func() error {
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, match)
			return err
		})
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
	}
	return nil
}
