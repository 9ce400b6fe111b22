package nft

import (
	"time"

	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// What a service proxy's rules need beyond those of the Pod network.

// dynsetDelete removes the element from the set (Linux 5.4).
const dynsetDelete = 2

// statusDestinationTranslated is the bit of a connection whose destination was translated (IPS_DST_NAT).
const statusDestinationTranslated = 1 << 5

// Immediate loads a constant.
func Immediate(reg uint32, data []byte) expr.Any { return &expr.Immediate{Register: reg, Data: data} }

// Random loads a random number of at least first and below first+n, in the machine's byte order.
func Random(reg, first, n uint32) expr.Any {
	return &expr.Numgen{Register: reg, Modulus: n, Offset: first, Type: unix.NFT_NG_RANDOM}
}

// To ends a rule with the verdict that the map has for the key in reg and on; a key that it lacks does not match.
func To(reg uint32, set string) []expr.Any {
	return []expr.Any{&expr.Lookup{SourceRegister: reg, SetName: set, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true}}
}

// Remember puts the value in dataReg and on under the key in keyReg and on into a dynamic map, or lengthens its life if
// the key is there; the value then stays. A set that is full does not match.
func Remember(set string, keyReg, dataReg uint32, life time.Duration) expr.Any {
	return &expr.Dynset{SetName: set, SrcRegKey: keyReg, SrcRegData: dataReg, Operation: unix.NFT_DYNSET_OP_UPDATE, Timeout: life}
}

// Forget removes the key in keyReg and on from a dynamic map. The kernel wants to be told of a value too: dataReg and on
// must be loaded with as much as one has, whatever it is.
func Forget(set string, keyReg, dataReg uint32) expr.Any {
	return &expr.Dynset{SetName: set, SrcRegKey: keyReg, SrcRegData: dataReg, Operation: dynsetDelete}
}

// Begun matches packets of a connection that has been let through before, and what belongs to it.
func Begun() []expr.Any {
	bits := binaryutil.NativeEndian.PutUint32(expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED)
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: Reg0},
		&expr.Bitwise{SourceRegister: Reg0, DestRegister: Reg0, Len: 4, Mask: bits, Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: Reg0, Data: make([]byte, 4)},
	}
}

// Untranslated matches packets of connections whose destination nobody has translated.
func Untranslated() []expr.Any {
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATUS, Register: Reg0},
		&expr.Bitwise{SourceRegister: Reg0, DestRegister: Reg0, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(statusDestinationTranslated), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpEq, Register: Reg0, Data: make([]byte, 4)},
	}
}

// OriginalDestination loads the address to which the first packet of a connection was sent, before any translation. In an
// inet table it takes four registers whatever the family, so that what follows an IPv4 address is loaded after it.
func OriginalDestination(reg uint32) expr.Any { return &expr.Ct{Key: expr.CtKeyDST, Register: reg} }

// OriginalPort loads the port to which it was sent.
func OriginalPort(reg uint32) expr.Any { return &expr.Ct{Key: expr.CtKeyPROTODST, Register: reg} }

// FromLocal matches packets whose source is an address of this machine.
func FromLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: Reg0, FlagSADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: Reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// NotToLocal matches packets whose destination is no address of this machine.
func NotToLocal() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: Reg0, FlagDADDR: true, ResultADDRTYPE: true},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: Reg0, Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// IsProtocol matches packets of a transport protocol.
func IsProtocol(protocol byte) []expr.Any { return metaIs(expr.MetaKeyL4PROTO, []byte{protocol}) }

// OutToLoopback matches packets that go out by lo.
func OutToLoopback() []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, "lo")
	return metaIs(expr.MetaKeyOIFNAME, name)
}

// Reset answers a TCP packet with a reset.
func Reset() []expr.Any { return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_TCP_RST}} }

// Unreachable answers that nobody listens on the port.
func Unreachable() []expr.Any {
	return []expr.Any{&expr.Reject{Type: unix.NFT_REJECT_ICMPX_UNREACH, Code: unix.NFT_REJECT_ICMPX_PORT_UNREACH}}
}
