package policy

import (
	"maps"
	"slices"

	"github.com/peapod/peapod/network/nft"
)

// desired is the table as it should be, and what of that the kernel does not have yet.
type desired struct {
	families []family
	sets     map[string]map[string]nft.Value
	chains   map[string]nft.Chain
	// before has, for each element that was touched, what the kernel has: nil for nothing. there says so of chains.
	before map[string]map[string]*nft.Value
	there  map[string]bool
}

func newDesired(families []family) desired {
	d := desired{families: families, sets: map[string]map[string]nft.Value{}, chains: map[string]nft.Chain{},
		before: map[string]map[string]*nft.Value{}, there: map[string]bool{}}
	for _, f := range families {
		for _, s := range f.sets() {
			d.sets[s.Name] = s.Elements
		}
	}
	return d
}

// touch remembers what an element was before the first change of it.
func (d *desired) touch(set, key string) {
	if d.before[set] == nil {
		d.before[set] = map[string]*nft.Value{}
	}
	if _, touched := d.before[set][key]; touched {
		return
	}
	var was *nft.Value
	if value, ok := d.sets[set][key]; ok {
		was = &value
	}
	d.before[set][key] = was
}

func (d *desired) put(e element) {
	d.touch(e.set, e.key)
	d.sets[e.set][e.key] = e.value
}

func (d *desired) drop(set, key string) {
	d.touch(set, key)
	delete(d.sets[set], key)
}

func (d *desired) putChain(c nft.Chain) {
	d.touchChain(c.Name)
	d.chains[c.Name] = c
}

// dropChain does nothing for a chain that there is not.
func (d *desired) dropChain(name string) {
	if _, ok := d.chains[name]; ok {
		d.touchChain(name)
		delete(d.chains, name)
	}
}

func (d *desired) touchChain(name string) {
	if _, touched := d.there[name]; !touched {
		_, d.there[name] = d.chains[name]
	}
}

// pending is what has changed since the last commit. A chain's content follows from its name and from numbers, which change only when
// nobody has used them in between; so it is either there or not.
func (d *desired) pending() nft.Update {
	var u nft.Update
	for _, name := range slices.Sorted(maps.Keys(d.there)) {
		chain, is := d.chains[name]
		switch was := d.there[name]; {
		case is && !was:
			u.Come = append(u.Come, chain)
		case was && !is:
			u.Gone = append(u.Gone, name)
		}
	}
	for _, set := range slices.Sorted(maps.Keys(d.before)) {
		delta := nft.Delta{Set: set, Come: map[string]nft.Value{}}
		for key, was := range d.before[set] {
			is, has := d.sets[set][key]
			if was != nil && has && *was == is {
				continue
			}
			if was != nil {
				delta.Gone = append(delta.Gone, key)
			}
			if has {
				delta.Come[key] = is
			}
		}
		if len(delta.Gone)+len(delta.Come) > 0 {
			u.Elements = append(u.Elements, delta)
		}
	}
	return u
}

// commit notes that the kernel has all there is.
func (d *desired) commit() {
	clear(d.before)
	clear(d.there)
}

// idle says whether no Pod of this node is isolated, so that no packet need be looked at.
func (d *desired) idle() bool {
	for _, f := range d.families {
		if len(d.sets[f.set(ingress.String())])+len(d.sets[f.set(egress.String())]) > 0 {
			return false
		}
	}
	return true
}

// table is the whole table.
func (d *desired) table(name string) *nft.Table {
	t := &nft.Table{Name: name}
	for _, f := range d.families {
		for _, s := range f.sets() {
			s.Elements = d.sets[s.Name]
			t.Sets = append(t.Sets, s)
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(d.chains)) {
		t.Chains = append(t.Chains, d.chains[chain])
	}
	t.Chains = append(t.Chains, baseChains(d.families)...)
	return t
}
