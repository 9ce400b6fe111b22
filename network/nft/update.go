package nft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Update is a change of a table that was applied.
type Update struct {
	// Come are chains that are new, without hooks. They and elements that come may lead to each other.
	Come []Chain
	// Elements are the changes of sets.
	Elements []Delta
	// Gone are the names of chains that leave. Nothing that stays may lead to them.
	Gone []string
}

// Delta is a change of one set's elements.
type Delta struct {
	Set string
	// Gone are keys of elements that leave, Come the elements that are new. A changed value is both.
	Gone []string
	Come map[string]Value
}

// ErrNotApplied is returned by Update for a table that the Applier does not know.
var ErrNotApplied = errors.New("nftables table was not applied")

// Update changes a table that was applied, in one transaction, at a cost in proportion to the change alone. What it changes is
// taken into account by the next Apply. After an error nothing has changed, and the caller Applies the whole table.
func (a *Applier) Update(name string, u Update) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.applied[name]
	if t == nil {
		return fmt.Errorf("update nftables table %s: %w", name, ErrNotApplied)
	}
	changes, err := u.changes(t)
	if err != nil {
		return fmt.Errorf("update nftables table %s: %w", name, err)
	}
	if len(changes) == 0 {
		return nil
	}
	if err := commit(changes); err != nil {
		return err
	}
	for i := range u.Elements {
		elements := t.set(u.Elements[i].Set).Elements
		for _, key := range u.Elements[i].Gone {
			delete(elements, key)
		}
		maps.Copy(elements, u.Elements[i].Come)
	}
	if len(u.Gone) > 0 {
		t.Chains = slices.DeleteFunc(t.Chains, func(c Chain) bool { return slices.Contains(u.Gone, c.Name) })
	}
	t.Chains = append(t.Chains, u.Come...)
	return nil
}

// changes are the steps in the order that the kernel needs: what is led to is there before what leads to it, and goes after it.
func (u *Update) changes(t *Table) ([]change, error) {
	var made, filled, gone, come, emptied, dropped []change
	for i := range u.Come {
		c := &u.Come[i]
		if t.chain(c.Name) != nil {
			return nil, fmt.Errorf("it has a chain %s", c.Name)
		}
		made = append(made, change{kind: addChain, table: t, chain: c})
		filled = append(filled, change{kind: replaceRules, table: t, chain: c})
	}
	for i := range u.Elements {
		d := &u.Elements[i]
		set := t.set(d.Set)
		if set == nil {
			return nil, fmt.Errorf("it has no set %s", d.Set)
		}
		next := *set
		next.Elements = d.Come
		if !next.fits(sizeOf(next.Key), sizeOf(next.Data)) {
			return nil, fmt.Errorf("set %s has an element of the wrong size", d.Set)
		}
		if len(d.Gone) > 0 {
			gone = append(gone, change{kind: deleteElements, table: t, set: set, keys: slices.Sorted(slices.Values(d.Gone))})
		}
		if len(d.Come) > 0 {
			come = append(come, change{kind: addElements, table: t, set: &next, keys: sortedKeys(d.Come)})
		}
	}
	for _, name := range u.Gone {
		if t.chain(name) == nil {
			return nil, fmt.Errorf("it has no chain %s", name)
		}
		// Those that leave may lead to each other, so all are emptied first.
		emptied = append(emptied, change{kind: replaceRules, table: t, chain: &Chain{Name: name}})
		dropped = append(dropped, change{kind: deleteChain, table: t, chain: &Chain{Name: name}})
	}
	return slices.Concat(made, filled, gone, come, emptied, dropped), nil
}
