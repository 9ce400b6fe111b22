package proxy

import (
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/netdump"
)

// Connection tracking keeps sending the packets of a UDP flow where its first one went, for as long as packets come: to an
// endpoint that is gone, or nowhere if there was none. Such flows are forgotten, so that their next packet is looked at
// anew. TCP ends by itself.

// staleFlows selects the flows to frontends that have changed and that lead elsewhere than these do now.
type staleFlows struct {
	fronts map[Frontend]*target // nil for a frontend that is gone
	// since are the targets from before, which tell flows of ours to node ports from what merely has the same port.
	before map[Frontend]*target
}

// newStaleFlows returns nil if no UDP frontend has lost or gained an endpoint.
func newStaleFlows(changes []change) *staleFlows {
	s := &staleFlows{fronts: map[Frontend]*target{}, before: map[Frontend]*target{}}
	for _, c := range changes {
		if c.front.Protocol == unix.IPPROTO_UDP {
			s.fronts[c.front], s.before[c.front] = c.new, c.old
		}
	}
	if len(s.fronts) == 0 {
		return nil
	}
	return s
}

// MatchConntrackFlow makes it a filter of the netlink library.
func (s *staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok := netip.AddrFromSlice(flow.Forward.DstIP)
	from, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok || !ok2 {
		return false
	}
	to, from = to.Unmap(), from.Unmap()
	leads := netip.AddrPortFrom(from, flow.Reverse.SrcPort)
	if t, ok := s.fronts[Frontend{to, unix.IPPROTO_UDP, flow.Forward.DstPort}]; ok {
		return !t.has(leads)
	}
	port := Frontend{anyAddr(to.Is6()), unix.IPPROTO_UDP, flow.Forward.DstPort}
	t, ok := s.fronts[port]
	if !ok {
		return false
	}
	// Any address may have that port; ours are flows that led to an endpoint, or that were led nowhere.
	return !t.has(leads) && (s.before[port].has(leads) || leads == netip.AddrPortFrom(to, flow.Forward.DstPort))
}

// has says whether connections go to that endpoint.
func (t *target) has(end netip.AddrPort) bool {
	if t == nil {
		return false
	}
	for _, list := range [][]netip.AddrPort{t.inside, t.outside} {
		for _, e := range list {
			if e == end {
				return true
			}
		}
	}
	return false
}

// forget removes the flows from the kernel's table, at the cost of a look at all of it.
func (s *staleFlows) forget() error {
	families := map[netlink.InetFamily]bool{}
	for f := range s.fronts {
		if f.Addr.Is6() {
			families[unix.AF_INET6] = true
		} else {
			families[unix.AF_INET] = true
		}
	}
	for family := range families {
		err := netdump.Repeat(func() error { // an interrupted dump has deleted what it saw; the rest is seen by another
			_, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, family, s)
			return err
		})
		if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, netlink.ErrDumpInterrupted) {
			return fmt.Errorf("forget UDP flows: %w", err)
		}
	}
	return nil
}
