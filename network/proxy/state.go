package proxy

import (
	"cmp"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/network/nft"
)

// state is what the rules are made from: the frontends of every Service. Two Services can claim one frontend (an external
// address); the older has it. It is deterministic and does no I/O.
type state struct {
	services map[types.NamespacedName]map[Frontend]*target
	claims   map[Frontend]map[types.NamespacedName]claim
	// current is what the rules say, as far as Commit was told.
	current map[Frontend]*target
	dirty   map[Frontend]bool
	classes *classes
}

type claim struct {
	since  time.Time
	target *target
}

func newState() *state {
	return &state{
		services: map[types.NamespacedName]map[Frontend]*target{}, claims: map[Frontend]map[types.NamespacedName]claim{},
		current: map[Frontend]*target{}, dirty: map[Frontend]bool{}, classes: newClasses(),
	}
}

// set notes the frontends of a Service; none if it is gone.
func (s *state) set(name types.NamespacedName, since time.Time, fronts map[Frontend]*target) {
	for f := range s.services[name] {
		if _, ok := fronts[f]; !ok {
			delete(s.claims[f], name)
			if len(s.claims[f]) == 0 {
				delete(s.claims, f)
			}
			s.dirty[f] = true
		}
	}
	for f, t := range fronts {
		if s.claims[f] == nil {
			s.claims[f] = map[types.NamespacedName]claim{}
		}
		s.claims[f][name] = claim{since, t}
		s.dirty[f] = true
	}
	if len(fronts) == 0 {
		delete(s.services, name)
	} else {
		s.services[name] = fronts
	}
}

// winner is the target of a frontend; nil if nobody claims it.
func (s *state) winner(f Frontend) *target {
	var who types.NamespacedName
	var best *claim
	for name, c := range s.claims[f] {
		if best == nil || cmp.Or(c.since.Compare(best.since), strings.Compare(name.Namespace, who.Namespace), strings.Compare(name.Name, who.Name)) < 0 {
			who, best = name, &c
		}
	}
	if best == nil {
		return nil
	}
	return best.target
}

// change is what became of a frontend; nil stands for none.
type change struct {
	front    Frontend
	old, new *target
}

// pending returns what has changed since the last commit, and whether it needs chains that the table does not have.
func (s *state) pending() (changes []change, grown bool) {
	for f := range s.dirty {
		old, now := s.current[f], s.winner(f)
		if old == nil && now == nil || old != nil && now != nil && old.equal(now) {
			continue
		}
		changes = append(changes, change{f, old, now})
		if now != nil && s.classes.admit(f, now) {
			grown = true
		}
	}
	return changes, grown
}

// commit notes that the rules have the changes.
func (s *state) commit(changes []change) {
	for _, c := range changes {
		if c.new == nil {
			delete(s.current, c.front)
		} else {
			s.current[c.front] = c.new
		}
	}
	clear(s.dirty)
}

// deltas turns changes into those of the sets' elements.
func deltas(changes []change) []nft.Delta {
	type element struct {
		old, new nft.Value
		was, is  bool
	}
	sets := map[string]map[string]*element{}
	at := func(set, key string) *element {
		if sets[set] == nil {
			sets[set] = map[string]*element{}
		}
		e := sets[set][key]
		if e == nil {
			e = &element{}
			sets[set][key] = e
		}
		return e
	}
	for _, c := range changes {
		if c.old != nil {
			elements(c.front, c.old, func(set, key string, v nft.Value) {
				e := at(set, key)
				e.was, e.old = true, v
			})
		}
		if c.new != nil {
			elements(c.front, c.new, func(set, key string, v nft.Value) {
				e := at(set, key)
				e.is, e.new = true, v
			})
		}
	}
	var out []nft.Delta
	for set, elements := range sets {
		d := nft.Delta{Set: set, Come: map[string]nft.Value{}}
		for key, e := range elements {
			if e.was && e.is && e.old == e.new {
				continue
			}
			if e.was {
				d.Gone = append(d.Gone, key)
			}
			if e.is {
				d.Come[key] = e.new
			}
		}
		if len(d.Gone)+len(d.Come) > 0 {
			out = append(out, d)
		}
	}
	return out
}

// table is the whole table as it should be, changes that are pending included.
func (s *state) table(name string, nets *Networks) *nft.Table {
	t := newTable(name, nets, s.classes)
	sets := map[string]map[string]nft.Value{}
	for i := range t.Sets {
		sets[t.Sets[i].Name] = t.Sets[i].Elements
	}
	for f := range s.claims {
		elements(f, s.winner(f), func(set, key string, v nft.Value) {
			if m := sets[set]; m != nil { // a family that the cluster does not have
				m[key] = v
			}
		})
	}
	return t
}
