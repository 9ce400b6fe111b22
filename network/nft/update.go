package nft

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Delta is a change of one set's elements.
type Delta struct {
	Set string
	// Gone are keys of elements that leave, Come the elements that are new. A changed value is both.
	Gone []string
	Come map[string]Value
}

// ErrNotApplied is returned by Update for a table that the Applier does not know.
var ErrNotApplied = errors.New("nftables table was not applied")

// Update changes elements of a table that was applied, in one transaction, at a cost in proportion to the change alone.
// What it changes is taken into account by the next Apply. After an error nothing has changed, and the caller Applies the
// whole table.
func (a *Applier) Update(name string, deltas []Delta) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	t := a.applied[name]
	if t == nil {
		return fmt.Errorf("update nftables table %s: %w", name, ErrNotApplied)
	}
	var gone, come []change
	for i := range deltas {
		d := &deltas[i]
		set := t.set(d.Set)
		if set == nil {
			return fmt.Errorf("update nftables table %s: it has no set %s", name, d.Set)
		}
		next := *set
		next.Elements = d.Come
		if !next.fits(sizeOf(next.Key), sizeOf(next.Data)) {
			return fmt.Errorf("update nftables table %s: set %s has an element of the wrong size", name, d.Set)
		}
		if len(d.Gone) > 0 {
			gone = append(gone, change{kind: deleteElements, table: t, set: set, keys: slices.Sorted(slices.Values(d.Gone))})
		}
		if len(d.Come) > 0 {
			come = append(come, change{kind: addElements, table: t, set: &next, keys: sortedKeys(d.Come)})
		}
	}
	if len(gone)+len(come) == 0 {
		return nil
	}
	if err := commit(append(gone, come...)); err != nil {
		return err
	}
	for i := range deltas {
		elements := t.set(deltas[i].Set).Elements
		for _, key := range deltas[i].Gone {
			delete(elements, key)
		}
		maps.Copy(elements, deltas[i].Come)
	}
	return nil
}
