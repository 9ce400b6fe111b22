package nft

import (
	"maps"
	"slices"
)

// change is one step of a transaction.
type change struct {
	kind  changeKind
	table *Table
	chain *Chain
	set   *Set
	keys  []string // elements of set, sorted
}

type changeKind int

const (
	// replaceTable makes the table with all its content, in place of any of its name.
	replaceTable changeKind = iota
	// deleteTable removes the table.
	deleteTable
	// addSet and addChain make an empty one.
	addSet
	addChain
	// deleteChain removes an empty one that nothing leads to.
	deleteChain
	// replaceRules empties the chain and fills it anew.
	replaceRules
	// addElements and deleteElements change the set by keys.
	addElements
	deleteElements
)

// diff returns what makes old into desired. old nil means that the kernel's state is unknown: the table is replaced.
// desired nil means that the table shall go. It is a pure function.
func diff(old, desired *Table) ([]change, error) {
	switch {
	case desired == nil && old == nil:
		return nil, nil
	case desired == nil:
		return []change{{kind: deleteTable, table: old}}, nil
	case old == nil || !desired.extends(old):
		return []change{{kind: replaceTable, table: desired}}, nil
	}
	var changes, added []change
	for i := range desired.Chains {
		if c := &desired.Chains[i]; old.chain(c.Name) == nil {
			changes = append(changes, change{kind: addChain, table: desired, chain: c})
		}
	}
	for i := range desired.Sets {
		is, was := &desired.Sets[i], old.set(desired.Sets[i].Name)
		if was == nil {
			changes = append(changes, change{kind: addSet, table: desired, set: is})
			was = &Set{}
		}
		gone, come := diffElements(was, is)
		if len(gone) > 0 {
			changes = append(changes, change{kind: deleteElements, table: desired, set: was, keys: gone})
		}
		if len(come) > 0 {
			added = append(added, change{kind: addElements, table: desired, set: is, keys: come})
		}
	}
	changes = append(changes, added...)
	for i := range desired.Chains {
		var rules []Rule
		if was := old.chain(desired.Chains[i].Name); was != nil {
			rules = was.Rules
		}
		same, err := sameRules(rules, desired.Chains[i].Rules)
		if err != nil {
			return nil, err
		}
		if !same {
			changes = append(changes, change{kind: replaceRules, table: desired, chain: &desired.Chains[i]})
		}
	}
	return changes, nil
}

// diffElements returns the keys of elements that leave and of those that come, sorted; a changed value is both.
func diffElements(was, is *Set) (gone, come []string) {
	for key, value := range was.Elements {
		if now, ok := is.Elements[key]; !ok || now != value {
			gone = append(gone, key)
		}
	}
	for key, value := range is.Elements {
		if before, ok := was.Elements[key]; !ok || before != value {
			come = append(come, key)
		}
	}
	slices.Sort(gone)
	slices.Sort(come)
	return gone, come
}

func sortedKeys(elements map[string]Value) []string { return slices.Sorted(maps.Keys(elements)) }
