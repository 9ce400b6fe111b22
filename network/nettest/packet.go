package nettest

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"
	"testing"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/network/nft"
)

// Packet is the first of a connection, on its way through a described table as the kernel would take it.
type Packet struct {
	Src, Dst netip.Addr
	Protocol byte
	Port     uint16
	// Begun says that it is not the first: its connection was let through before.
	Begun bool
	// Orig is where it was sent.
	Orig netip.AddrPort
	// Random is the number that numgen gives, modulo its modulus.
	Random uint32
	// Noted is what rules have put into the one dynamic map.
	Noted map[string]string
	// Local are the machine's addresses.
	Local []netip.Addr

	translated bool
	registers  [64]byte
}

// Walk takes the packet through a chain: "accept", "drop", "reject", "masquerade", or nothing at its end.
func (p *Packet) Walk(t testing.TB, table *nft.Table, chain string) string {
	t.Helper()
	for _, c := range table.Chains {
		if c.Name != chain {
			continue
		}
		for _, r := range c.Rules {
			if v := p.rule(t, table, r.Exprs); v == leave {
				return ""
			} else if v != "" {
				return v
			}
		}
		return ""
	}
	t.Fatalf("no chain %s", chain)
	return ""
}

// leave ends a chain without a verdict; the one that jumped to it goes on.
const leave = "return"

func (p *Packet) at(reg uint32) []byte { return p.registers[(reg-nft.Reg0)*4:] }

// rule returns what a rule decides; nothing where it does not match.
func (p *Packet) rule(t testing.TB, table *nft.Table, exprs []expr.Any) string {
	t.Helper()
	for _, e := range exprs {
		switch e := e.(type) {
		case *expr.Meta, *expr.Payload, *expr.Ct, *expr.Fib, *expr.Immediate, *expr.Numgen, *expr.Bitwise:
			p.load(e)
		case *expr.Cmp:
			if !compares(e.Op, bytes.Compare(p.at(e.Register)[:len(e.Data)], e.Data)) {
				return ""
			}
		case *expr.Dynset:
			key, data := string(p.at(e.SrcRegKey)[:16]), string(p.at(e.SrcRegData)[:8])
			if _, ok := p.Noted[key]; e.Operation == 2 {
				delete(p.Noted, key)
			} else if !ok {
				p.Noted[key] = data
			}
		case *expr.Lookup:
			v, ok := p.lookup(t, table, e)
			if !ok {
				return ""
			}
			if e.IsDestRegSet && e.DestRegister == unix.NFT_REG_VERDICT {
				return p.verdict(t, table, v.Verdict, v.Chain)
			}
			if e.IsDestRegSet {
				copy(p.at(e.DestRegister), v.Data)
			}
		case *expr.NAT:
			addr, _ := netip.AddrFromSlice(p.at(e.RegAddrMin)[:p.Dst.BitLen()/8])
			p.Dst, p.Port, p.translated = addr, binary.BigEndian.Uint16(p.at(e.RegProtoMin)), true
			return "accept"
		case *expr.Masq:
			return "masquerade"
		case *expr.Reject:
			return "reject"
		case *expr.Verdict:
			return p.verdict(t, table, e.Kind, e.Chain)
		default:
			t.Fatalf("cannot trace %T", e)
		}
	}
	return ""
}

func (p *Packet) verdict(t testing.TB, table *nft.Table, kind expr.VerdictKind, chain string) string {
	t.Helper()
	switch kind {
	case expr.VerdictAccept:
		return "accept"
	case expr.VerdictDrop:
		return "drop"
	case expr.VerdictReturn:
		return leave
	case expr.VerdictJump:
		return p.Walk(t, table, chain)
	case expr.VerdictGoto:
		return cmp.Or(p.Walk(t, table, chain), leave)
	}
	t.Fatalf("cannot trace verdict %d", kind)
	return ""
}

func compares(op expr.CmpOp, order int) bool {
	switch op {
	case expr.CmpOpNeq:
		return order != 0
	case expr.CmpOpGte:
		return order >= 0
	case expr.CmpOpLte:
		return order <= 0
	}
	return order == 0
}

// load runs an expression that puts something into registers.
func (p *Packet) load(e expr.Any) {
	host := func(n uint32) []byte { return binary.NativeEndian.AppendUint32(nil, n) }
	port := func(n uint16) []byte { return append(binary.BigEndian.AppendUint16(nil, n), 0, 0) }
	switch e := e.(type) {
	case *expr.Meta:
		copy(p.at(e.Register), p.meta(e.Key))
	case *expr.Payload:
		switch {
		case e.Base == expr.PayloadBaseTransportHeader:
			copy(p.at(e.DestRegister), port(p.Port))
		case e.Offset == 12 || e.Offset == 8:
			copy(p.at(e.DestRegister), p.Src.AsSlice())
		default:
			copy(p.at(e.DestRegister), p.Dst.AsSlice())
		}
	case *expr.Ct:
		switch e.Key {
		case expr.CtKeySTATE:
			state := map[bool]uint32{false: expr.CtStateBitNEW, true: expr.CtStateBitESTABLISHED}[p.Begun]
			copy(p.at(e.Register), host(state))
		case expr.CtKeySTATUS:
			copy(p.at(e.Register), host(map[bool]uint32{true: 32}[p.translated]))
		case expr.CtKeyDST:
			copy(p.at(e.Register), p.Orig.Addr().AsSlice())
		case expr.CtKeyPROTODST:
			copy(p.at(e.Register), port(p.Orig.Port()))
		}
	case *expr.Fib:
		addr, kind := p.Dst, uint32(unix.RTN_UNICAST)
		if e.FlagSADDR {
			addr = p.Src
		}
		if slices.Contains(p.Local, addr) {
			kind = unix.RTN_LOCAL
		}
		copy(p.at(e.Register), host(kind))
	case *expr.Immediate:
		copy(p.at(e.Register), e.Data)
	case *expr.Numgen:
		copy(p.at(e.Register), host(e.Offset+p.Random%e.Modulus))
	case *expr.Bitwise:
		for i := range e.Len {
			p.at(e.DestRegister)[i] = p.at(e.SourceRegister)[i] & e.Mask[i]
		}
	}
}

func (p *Packet) meta(key expr.MetaKey) []byte {
	switch key {
	case expr.MetaKeyNFPROTO:
		if p.Dst.Is6() {
			return []byte{unix.NFPROTO_IPV6, 0, 0, 0}
		}
		return []byte{unix.NFPROTO_IPV4, 0, 0, 0}
	case expr.MetaKeyL4PROTO:
		return []byte{p.Protocol, 0, 0, 0}
	}
	return make([]byte, 16) // an interface that is not lo
}

func (p *Packet) lookup(t testing.TB, table *nft.Table, e *expr.Lookup) (nft.Value, bool) {
	for _, s := range table.Sets {
		if s.Name != e.SetName {
			continue
		}
		if s.Dynamic {
			data, ok := p.Noted[string(p.at(e.SourceRegister)[:16])]
			return nft.Value{Data: data}, ok
		}
		size := 0
		for _, part := range s.Key {
			size += (int(part.Bytes) + 3) &^ 3
		}
		v, ok := s.Elements[string(p.at(e.SourceRegister)[:size])]
		return v, ok
	}
	t.Fatalf("no set %s", e.SetName)
	return nft.Value{}, false
}
