package nft

import (
	"net/netip"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Registers: the kernel has sixteen of four bytes, numbered from Reg0; what needs more takes several in a row.
const (
	// Reg0 is the first register of four bytes.
	Reg0 = 8
	// Reg1 and the next follow it.
	Reg1 = Reg0 + 1
	Reg2 = Reg0 + 2
	Reg4 = Reg0 + 4
	Reg5 = Reg0 + 5
)

// Exprs joins lists of expressions into those of one rule: a packet must match each, in this order.
func Exprs(lists ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, list := range lists {
		all = append(all, list...)
	}
	return all
}

// Is4 and Is6 match packets of a family. In an inet table one of them comes before whatever looks into the IP header.
func Is4() []expr.Any { return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV4}) }

// Is6 matches IPv6.
func Is6() []expr.Any { return metaIs(expr.MetaKeyNFPROTO, []byte{unix.NFPROTO_IPV6}) }

func metaIs(key expr.MetaKey, value []byte) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: key, Register: Reg0},
		&expr.Cmp{Op: expr.CmpOpEq, Register: Reg0, Data: value},
	}
}

// InFrom matches packets that came in by an interface whose name begins with prefix.
func InFrom(prefix string) []expr.Any { return metaIs(expr.MetaKeyIIFNAME, []byte(prefix)) }

// OutTo matches packets that go out by an interface whose name begins with prefix.
func OutTo(prefix string) []expr.Any { return metaIs(expr.MetaKeyOIFNAME, []byte(prefix)) }

// NotOutTo matches those that go elsewhere.
func NotOutTo(prefix string) []expr.Any {
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyOIFNAME, Register: Reg0},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: Reg0, Data: []byte(prefix)},
	}
}

// Source loads the source address of a packet, known to be of that family, into reg.
func Source(is6 bool, reg uint32) expr.Any {
	if is6 {
		return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 8, Len: 16}
	}
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 12, Len: 4}
}

// Destination loads the destination address.
func Destination(is6 bool, reg uint32) expr.Any {
	if is6 {
		return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 24, Len: 16}
	}
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseNetworkHeader, Offset: 16, Len: 4}
}

// SourceIn matches source addresses in net; the packet must be of its family.
func SourceIn(net netip.Prefix) []expr.Any {
	return append([]expr.Any{Source(net.Addr().Is6(), Reg0)}, Within(net)...)
}

// DestinationIn matches destination addresses in net.
func DestinationIn(net netip.Prefix) []expr.Any {
	return append([]expr.Any{Destination(net.Addr().Is6(), Reg0)}, Within(net)...)
}

// Within matches when the address in Reg0 and on is in net.
func Within(net netip.Prefix) []expr.Any {
	size := uint32(net.Addr().BitLen() / 8)
	mask := make([]byte, size)
	for i := range net.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return []expr.Any{
		&expr.Bitwise{SourceRegister: Reg0, DestRegister: Reg0, Len: size, Mask: mask, Xor: make([]byte, size)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: Reg0, Data: net.Masked().Addr().AsSlice()},
	}
}

// NotWithin matches when it is not.
func NotWithin(net netip.Prefix) []expr.Any {
	exprs := Within(net)
	exprs[1].(*expr.Cmp).Op = expr.CmpOpNeq
	return exprs
}

// Protocol and Port load the transport protocol (one byte) and its destination port (two) of a packet.
func Protocol(reg uint32) expr.Any { return &expr.Meta{Key: expr.MetaKeyL4PROTO, Register: reg} }

// Port loads the destination port. Protocols without ports do not match.
func Port(reg uint32) expr.Any {
	return &expr.Payload{DestRegister: reg, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}
}

// PortBetween matches destination ports from first to last.
func PortBetween(first, last uint16) []expr.Any {
	at := func(op expr.CmpOp, port uint16) expr.Any {
		return &expr.Cmp{Op: op, Register: Reg0, Data: binaryutil.BigEndian.PutUint16(port)}
	}
	if first == last {
		return []expr.Any{Port(Reg0), at(expr.CmpOpEq, first)}
	}
	return []expr.Any{Port(Reg0), at(expr.CmpOpGte, first), at(expr.CmpOpLte, last)}
}

// ToLocal matches packets whose destination is an address of this machine.
func ToLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: Reg0, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: Reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// SpoofedSource matches packets whose source address is not routed to the interface that they came in by.
func SpoofedSource() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: Reg0, FlagSADDR: true, FlagIIF: true, ResultOIF: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: Reg0, Data: binaryutil.NativeEndian.PutUint32(0)},
	}
}

// In matches when the key loaded from reg on is in the set.
func In(reg uint32, set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg, SetName: set}}
}

// Mapped loads, into dest and on, what the map has for the key in reg and on; a key that it lacks does not match.
func Mapped(reg uint32, set string, dest uint32) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg, SetName: set, DestRegister: dest, IsDestRegSet: true}}
}

// DNAT sends the packet to the address in addrReg and the port in portReg.
func DNAT(is6 bool, addrReg, portReg uint32) []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: protocolFamily(is6), RegAddrMin: addrReg, RegProtoMin: portReg, Specified: true}}
}

// SNAT gives the packet the source address in addrReg, and another source port only where another connection has its own.
func SNAT(is6 bool, addrReg uint32) []expr.Any {
	return []expr.Any{&expr.NAT{Type: expr.NATTypeSourceNAT, Family: protocolFamily(is6), RegAddrMin: addrReg}}
}

func protocolFamily(is6 bool) uint32 {
	if is6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// Masquerade gives the packet an address of the interface that it leaves by; ports are chosen at random, which spares
// concurrent connections to one destination from colliding.
func Masquerade() []expr.Any { return []expr.Any{&expr.Masq{FullyRandom: true}} }

// Verdict ends a rule: expr.VerdictDrop, VerdictReturn, or VerdictJump and VerdictGoto to a chain.
func Verdict(kind expr.VerdictKind, chain string) []expr.Any {
	return []expr.Any{&expr.Verdict{Kind: kind, Chain: chain}}
}
