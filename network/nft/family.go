package nft

import (
	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Family is what rules must know of IPv4 or IPv6: an inet table has both, but no set of addresses can.
type Family struct {
	Is6 bool
	// Suffix ends the names of sets and chains: "4" or "6".
	Suffix string
	// Match matches packets of the family.
	Match []expr.Any
	// Address is the type of addresses in sets, Words how many registers one takes.
	Address nftables.SetDatatype
	Words   uint32
}

// FamilyOf returns the one or the other.
func FamilyOf(is6 bool) *Family {
	if is6 {
		return &Family{true, "6", Is6(), nftables.TypeIP6Addr, 4}
	}
	return &Family{false, "4", Is4(), nftables.TypeIPAddr, 1}
}
