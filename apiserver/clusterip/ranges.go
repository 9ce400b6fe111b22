package clusterip

import (
	"math/big"
	"net/netip"

	"github.com/peapod/peapod/internal/draw"
)

// span is a range of cluster IPs. Addresses are numbers from its start: 0, the network, and, in IPv4, the last, the
// broadcast address, are never handed out. The lower numbers are kept for those who ask for one by address, as long as
// there are others (KEP-3070).
type span struct {
	prefix netip.Prefix
	size   uint64 // numbers 1..size may be handed out
	kept   uint64 // the first of them that are handed out last
}

// largest is the number of bits of an address that are drawn; of larger ranges the beginning is used.
const largest = 62

func newSpan(p netip.Prefix) span {
	s := span{prefix: p.Masked()}
	bits := p.Addr().BitLen() - p.Bits()
	s.size = 1<<min(bits, largest) - 1
	if p.Addr().Is4() && s.size > 0 {
		s.size--
	}
	if s.size >= 16 {
		s.kept = min(max(16, s.size/16), 256)
	}
	return s
}

// parts are the numbers in the order in which they are handed out.
func (s span) parts() []draw.Part { return draw.KeptLast(1, s.kept, s.size) }

func (s span) address(number uint64) netip.Addr {
	base := s.prefix.Addr().AsSlice()
	n := new(big.Int).SetBytes(base)
	n.Add(n, new(big.Int).SetUint64(number))
	addr, _ := netip.AddrFromSlice(n.FillBytes(base))
	return addr
}
