// Package nft keeps nftables tables of our own as they should be. A caller describes whole tables as values; the package
// compares them with what it applied last and changes the kernel's by one atomic transaction: packets see the tables from
// before or from after, never between. It needs no nft binary and touches no table that is not described to it.
//
// Sets and maps change by their elements, at a cost in proportion to the change. So rules should be few and constant, and
// what comes and goes (Pods, ports, endpoints) elements in maps.
package nft

import (
	"bytes"
	"fmt"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// Table is one table of the inet family: rules for IPv4 and IPv6 together.
type Table struct {
	Name   string
	Chains []Chain
	Sets   []Set
}

// Chain is a list of rules. With a Hook it is a base chain that packets enter, else others jump to it; it must come
// before those in Table.Chains.
type Chain struct {
	Name  string
	Hook  *Hook
	Rules []Rule
}

// Hook is where a base chain sits.
type Hook struct {
	Type     nftables.ChainType
	Hook     nftables.ChainHook
	Priority nftables.ChainPriority
}

// Rule is what `nft list` shows with its comment.
type Rule struct {
	Comment string
	Exprs   []expr.Any
}

// Set is a set, or with Data a map, or with Verdicts a verdict map. Keys and values of several parts ("ip . port") have
// each part padded to four bytes; Key builds them.
type Set struct {
	Name     string
	Key      []nftables.SetDatatype
	Data     []nftables.SetDatatype
	Verdicts bool
	// Dynamic says that rules put elements in, which leave by themselves (see Remember). It has no Elements.
	Dynamic bool
	// Elements by key, as bytes in a string; the value is nil in a set.
	Elements map[string]Value
}

// Value is what a map gives for a key: Data, or the verdict in a verdict map.
type Value struct {
	Data    string
	Verdict expr.VerdictKind
	Chain   string
}

// Key joins the parts of a key or value, each padded to whole registers of four bytes.
func Key(parts ...[]byte) string {
	var b []byte
	for _, part := range parts {
		b = append(b, part...)
		for len(b)%4 != 0 {
			b = append(b, 0)
		}
	}
	return string(b)
}

func (t *Table) validate() error {
	sets := map[string]bool{}
	for _, s := range t.Sets {
		if sets[s.Name] {
			return fmt.Errorf("table %s has two sets %s", t.Name, s.Name)
		}
		sets[s.Name] = true
		if size := sizeOf(s.Key); !s.fits(size, sizeOf(s.Data)) {
			return fmt.Errorf("set %s of table %s has an element of the wrong size", s.Name, t.Name)
		}
	}
	chains := map[string]bool{}
	for _, c := range t.Chains {
		if chains[c.Name] {
			return fmt.Errorf("table %s has two chains %s", t.Name, c.Name)
		}
		chains[c.Name] = true
	}
	return nil
}

func (s *Set) fits(keySize, dataSize int) bool {
	for key, value := range s.Elements {
		if len(key) != keySize || !s.Verdicts && len(value.Data) != dataSize {
			return false
		}
	}
	return true
}

func sizeOf(types []nftables.SetDatatype) int {
	size := 0
	for _, t := range types {
		size += int(t.Bytes)
		if len(types) > 1 {
			size = (size + 3) &^ 3
		}
	}
	return size
}

// sameShape says whether the two sets differ in their elements at most.
func (s *Set) sameShape(o *Set) bool {
	return s.Name == o.Name && s.Verdicts == o.Verdicts && s.Dynamic == o.Dynamic && slices.Equal(s.Key, o.Key) && slices.Equal(s.Data, o.Data)
}

// sameShape says whether the two chains differ in their rules at most.
func (c *Chain) sameShape(o *Chain) bool {
	if c.Name != o.Name || (c.Hook == nil) != (o.Hook == nil) {
		return false
	}
	return c.Hook == nil || *c.Hook == *o.Hook
}

// extends says whether t has all sets and chains of old, so that old becomes t by additions and by changing rules and
// elements, with everything in between staying in place.
func (t *Table) extends(old *Table) bool {
	for i := range old.Sets {
		if s := t.set(old.Sets[i].Name); s == nil || !s.sameShape(&old.Sets[i]) {
			return false
		}
	}
	for i := range old.Chains {
		if c := t.chain(old.Chains[i].Name); c == nil || !c.sameShape(&old.Chains[i]) {
			return false
		}
	}
	return true
}

// set and chain return the part of that name, or nil.
func (t *Table) set(name string) *Set {
	for i := range t.Sets {
		if t.Sets[i].Name == name {
			return &t.Sets[i]
		}
	}
	return nil
}

func (t *Table) chain(name string) *Chain {
	for i := range t.Chains {
		if t.Chains[i].Name == name {
			return &t.Chains[i]
		}
	}
	return nil
}

func sameRules(a, b []Rule) (bool, error) {
	if len(a) != len(b) {
		return false, nil
	}
	for i := range a {
		if a[i].Comment != b[i].Comment || len(a[i].Exprs) != len(b[i].Exprs) {
			return false, nil
		}
		for j := range a[i].Exprs {
			x, err := expr.Marshal(byte(nftables.TableFamilyINet), a[i].Exprs[j])
			if err != nil {
				return false, fmt.Errorf("encode rule %q: %w", a[i].Comment, err)
			}
			y, err := expr.Marshal(byte(nftables.TableFamilyINet), b[i].Exprs[j])
			if err != nil {
				return false, fmt.Errorf("encode rule %q: %w", b[i].Comment, err)
			}
			if !bytes.Equal(x, y) {
				return false, nil
			}
		}
	}
	return true, nil
}

// clone copies what a caller might go on changing: the elements.
func (t *Table) clone() *Table {
	c := &Table{Name: t.Name, Chains: slices.Clone(t.Chains), Sets: slices.Clone(t.Sets)}
	for i := range c.Sets {
		elements := make(map[string]Value, len(c.Sets[i].Elements))
		for k, v := range c.Sets[i].Elements {
			elements[k] = v
		}
		c.Sets[i].Elements = elements
	}
	return c
}
