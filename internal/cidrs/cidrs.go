// Package cidrs is the networks that a cluster has of a kind, of Pods or of Services: one, or one of each IP family, of which the first is
// the one that counts where only one can be named.
package cidrs

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// List is such networks, masked. Its text, also in JSON, is that of flags: one network, or two with a comma between.
type List []netip.Prefix

// Parse reads the text of a list; that of an empty one is empty.
func Parse(text string) (List, error) {
	if text == "" {
		return nil, nil
	}
	var l List
	for part := range strings.SplitSeq(text, ",") {
		p, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, err
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("%s is an IPv4 network in the clothes of IPv6", p)
		}
		l = append(l, p.Masked())
	}
	if len(l) > 2 || len(l) == 2 && l[0].Addr().Is6() == l[1].Addr().Is6() {
		return nil, errors.New("more than one network of an IP family")
	}
	return l, nil
}

// Of returns the list of those networks.
func Of(networks ...netip.Prefix) List { return networks }

func (l List) String() string {
	parts := l.Strings()
	return strings.Join(parts, ",")
}

// Strings are the texts of the networks.
func (l List) Strings() []string {
	parts := make([]string, len(l))
	for i, p := range l {
		parts[i] = p.String()
	}
	return parts
}

// MarshalText is String.
func (l List) MarshalText() ([]byte, error) { return []byte(l.String()), nil }

// UnmarshalText is Parse.
func (l *List) UnmarshalText(text []byte) (err error) {
	*l, err = Parse(string(text))
	return err
}

// First is the network that counts where only one can be named; not valid in an empty list.
func (l List) First() netip.Prefix {
	if len(l) == 0 {
		return netip.Prefix{}
	}
	return l[0]
}

// OfFamily is the network of an IP family; not valid if there is none.
func (l List) OfFamily(is6 bool) netip.Prefix {
	for _, p := range l {
		if p.Addr().Is6() == is6 {
			return p
		}
	}
	return netip.Prefix{}
}

// Families are the IP families of the networks, in their order: true is IPv6.
func (l List) Families() []bool {
	families := make([]bool, len(l))
	for i, p := range l {
		families[i] = p.Addr().Is6()
	}
	return families
}

// Equal says whether both have the same networks in the same order.
func (l List) Equal(other List) bool { return slices.Equal(l, other) }

// Overlaps says whether a network of one shares an address with one of the other.
func (l List) Overlaps(other ...netip.Prefix) bool {
	return slices.ContainsFunc(l, func(p netip.Prefix) bool { return slices.ContainsFunc(other, p.Overlaps) })
}
