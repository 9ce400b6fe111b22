package mvcc

import (
	"sort"
	"strings"

	"github.com/tidwall/btree"
)

// View is the state at one revision. It does not change, needs no lock, and may be used by any number of goroutines. It
// costs nothing to make; while it is held, writes copy the tree nodes that they change, and what it shows stays in
// memory.
type View struct {
	rev  int64
	tree *btree.BTreeG[*Value]
	undo []undone
}

// Rev is the revision that the view shows.
func (v *View) Rev() int64 { return v.rev }

// Present returns the view of the present where it has been made since the last write, nil otherwise.
func (s *State) Present() *View { return s.view }

// View returns the view of the present. It counts as a write for the purpose of locking.
func (s *State) View() *View {
	if s.view == nil {
		s.view = &View{rev: s.rev, tree: s.tree.Copy()}
	}
	return s.view
}

// At returns a view that shows resource r, and nothing else correctly, as it was at revision rev. It costs as much as
// there are events of r after rev. It counts as a write for the purpose of locking.
func (s *State) At(r *Resource, rev int64) (*View, error) {
	switch {
	case rev > s.rev:
		return nil, ErrFuture
	case rev < s.compacted || rev < r.floor || s.aged(rev):
		return nil, ErrCompacted
	case rev == s.rev:
		return s.View(), nil
	}
	return &View{rev: rev, tree: s.View().tree, undo: r.undo(rev)}, nil
}

// aged says whether a revision was the latest too long ago to be read.
func (s *State) aged(rev int64) bool {
	n := len(s.marks)
	return n > 0 && rev < s.marks[0].rev && s.marks[0].at <= s.marks[n-1].at-s.limits.ReadAge
}

// Get returns what key holds, nil for nothing.
func (v *View) Get(key string) *Value {
	if i := v.undoneFrom(key); i < len(v.undo) && v.undo[i].key == key {
		return v.undo[i].val
	}
	val, _ := v.tree.Get(&Value{Key: key})
	return val
}

// undoneFrom returns the index of the first undone key at or after from.
func (v *View) undoneFrom(from string) int {
	return sort.Search(len(v.undo), func(i int) bool { return v.undo[i].key >= from })
}

// Ascend calls fn with the values of the keys that begin with prefix, from the key from on, in the order of keys, until
// fn returns false.
func (v *View) Ascend(from, prefix string, fn func(*Value) bool) {
	from = max(from, prefix)
	i, more := v.undoneFrom(from), true
	// emit passes on the undone keys before key, and says whether key itself is among them.
	emit := func(key string, all bool) (covered bool) {
		for more && i < len(v.undo) && (all || v.undo[i].key <= key) {
			u := v.undo[i]
			i++
			if !strings.HasPrefix(u.key, prefix) {
				continue
			}
			if u.val != nil {
				more = fn(u.val)
			}
			if u.key == key {
				return true
			}
		}
		return false
	}
	v.tree.Ascend(&Value{Key: from}, func(val *Value) bool {
		if !strings.HasPrefix(val.Key, prefix) {
			return false
		}
		if !emit(val.Key, false) && more {
			more = fn(val)
		}
		return more
	})
	emit("", true)
}

// Count returns the number of keys that Ascend would pass.
func (v *View) Count(from, prefix string) int64 {
	var n int64
	v.Ascend(from, prefix, func(*Value) bool { n++; return true })
	return n
}
