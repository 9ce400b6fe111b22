package mvcc

import (
	"cmp"
	"errors"
	"sort"
	"strings"

	"github.com/tidwall/btree"
)

var (
	// ErrCompacted says that a revision lies before what is still in memory.
	ErrCompacted = errors.New("the revision has been compacted")
	// ErrFuture says that a revision has not happened yet.
	ErrFuture = errors.New("the revision is in the future")
)

// Limits bounds the history. A limit that is zero or less does not bound. Those of events and bytes are for small states: a log
// may always hold one change of each object that there is, so that whoever watches many objects, all of which change at once, has
// as much time to read that as it would take to list them.
type Limits struct {
	// ResourceEvents and ResourceBytes bound the log of each resource, Bytes the logs of all resources together: where
	// it is exceeded, the largest log gives way.
	ResourceEvents int
	ResourceBytes  int64
	Bytes          int64
	// Age is how long events are kept, in milliseconds. Older ones leave when later ones come. ReadAge is how long a revision
	// can be read after the next one was written.
	Age, ReadAge int64
}

// FirstRevision is the revision of an empty store. Revision 0 means "any" to clients and never exists.
const FirstRevision = 1

// State is the present and the recent past of all keys.
type State struct {
	limits Limits
	tree   *btree.BTreeG[*Value]
	// expiry orders the values that expire by when, then key.
	expiry *btree.BTreeG[*Value]
	// rev is the latest revision; compacted is the oldest one that can be read anywhere.
	rev, compacted int64
	// marks are revisions with the time at which they were the latest, oldest first; what is older than the first is not read
	// any more.
	marks []mark
	// unowned is the latest revision of a change to a key of no resource.
	unowned   int64
	resources map[string]*Resource
	// logBytes is the sum of the resources' bytes, turnover that of their turnovers.
	logBytes, turnover int64
	// view is the snapshot of the present, nil until somebody asks for it.
	view *View
}

// New returns an empty state at FirstRevision.
func New(limits Limits) *State {
	return &State{
		limits: limits,
		tree: btree.NewBTreeGOptions(func(a, b *Value) bool { return a.Key < b.Key },
			btree.Options{NoLocks: true}),
		expiry: btree.NewBTreeGOptions(func(a, b *Value) bool {
			return cmp.Or(cmp.Compare(a.Expires, b.Expires), strings.Compare(a.Key, b.Key)) < 0
		}, btree.Options{NoLocks: true, Degree: 8}),
		rev:       FirstRevision,
		resources: map[string]*Resource{},
	}
}

// Restore puts back a value that was read from disk. It must come before any other method.
func (s *State) Restore(v *Value) {
	s.tree.Set(v)
	if v.Expires != 0 {
		s.expiry.Set(v)
	}
}

// Restored ends the restoring: rev is the latest revision that was ever given out. What happened before is not known
// any more.
func (s *State) Restored(rev int64) {
	s.rev, s.compacted = rev, rev
}

// Rev returns the latest revision.
func (s *State) Rev() int64 { return s.rev }

// Compacted returns the revision before which nothing can be read of any resource.
func (s *State) Compacted() int64 { return s.compacted }

// Resource returns the resource of the keys that begin with prefix, which must end in a slash, and starts its history
// where there is none: keys of a resource that has not been asked for are of no resource. It counts the keys once: linear
// in their number.
func (s *State) Resource(prefix string) *Resource {
	if r := s.resources[prefix]; r != nil {
		return r
	}
	r := &Resource{Prefix: prefix, floor: max(s.compacted, s.unowned, FirstRevision)}
	s.ascend(prefix, prefix, func(v *Value) bool {
		r.count++
		r.data += int64(len(v.Data))
		return true
	})
	s.resources[prefix] = r
	s.turnover += r.turnover()
	return r
}

// Get returns what key holds at present, nil for nothing.
func (s *State) Get(key string) *Value {
	v, _ := s.tree.Get(&Value{Key: key})
	return v
}

func (s *State) ascend(from, prefix string, fn func(*Value) bool) {
	s.tree.Ascend(&Value{Key: from}, func(v *Value) bool { return strings.HasPrefix(v.Key, prefix) && fn(v) })
}

// Expired appends to dst at most max values that expire at now or before, the first to expire first.
func (s *State) Expired(now int64, max int, dst []*Value) []*Value {
	s.expiry.Scan(func(v *Value) bool {
		if v.Expires > now || len(dst) >= max {
			return false
		}
		dst = append(dst, v)
		return true
	})
	return dst
}

// NextExpiry returns when the next value expires, in Unix milliseconds.
func (s *State) NextExpiry() (at int64, ok bool) {
	v, ok := s.expiry.Min()
	if !ok {
		return 0, false
	}
	return v.Expires, true
}

// Compact forgets what happened before revision rev, which stays readable itself.
func (s *State) Compact(rev int64) error {
	if rev > s.rev {
		return ErrFuture
	}
	if rev <= s.compacted {
		return ErrCompacted
	}
	s.compacted = rev
	for _, r := range s.resources {
		for r.len() > 0 && r.events[r.head].Rev <= rev {
			s.logBytes -= r.dropOldest()
		}
		r.floor = max(r.floor, rev)
	}
	return nil
}

// trim enforces the limits after r has grown. The largest log is searched for only where the sum is exceeded: linear in
// the number of resources, which is small.
func (s *State) trim(r *Resource, now int64) {
	l := &s.limits
	for r.len() > 0 && (l.ResourceEvents > 0 && int64(r.len()) > max(int64(l.ResourceEvents), r.count) ||
		l.ResourceBytes > 0 && r.bytes > max(l.ResourceBytes, r.turnover()) ||
		l.Age > 0 && r.events[r.head].at < now-l.Age) {
		s.logBytes -= r.dropOldest()
	}
	for l.Bytes > 0 && s.logBytes > max(l.Bytes, s.turnover) {
		largest := r
		for _, o := range s.resources {
			if o.bytes > largest.bytes || o.bytes == largest.bytes && o.Prefix < largest.Prefix {
				largest = o
			}
		}
		s.logBytes -= largest.dropOldest()
	}
}

// mark is a revision that was the latest at a time, in milliseconds.
type mark struct{ at, rev int64 }

// TrimAge drops the events of all resources that are older than Limits.Age, and notes the present for Limits.ReadAge, whose
// precision is how often this is called.
func (s *State) TrimAge(now int64) {
	if age := s.limits.ReadAge; age > 0 {
		s.marks = append(s.marks, mark{now, s.rev})
		for len(s.marks) > 1 && s.marks[1].at <= now-age {
			s.marks = s.marks[1:]
		}
	}
	if s.limits.Age <= 0 {
		return
	}
	for _, r := range s.resources {
		for r.len() > 0 && r.events[r.head].at < now-s.limits.Age {
			s.logBytes -= r.dropOldest()
		}
	}
}

// undone says what a key held at an older revision; val is nil where it did not exist.
type undone struct {
	key string
	val *Value
}

// undo lists, in the order of keys, what the events of r after rev changed, as it was at rev. Linear in the number of
// those events.
func (r *Resource) undo(rev int64) []undone {
	was := map[string]*Value{}
	for i := len(r.events) - 1; i >= r.head && r.events[i].Rev > rev; i-- {
		was[r.events[i].Key] = r.events[i].Prev
	}
	if len(was) == 0 {
		return nil
	}
	list := make([]undone, 0, len(was))
	for k, v := range was {
		list = append(list, undone{k, v})
	}
	sort.Slice(list, func(i, j int) bool { return list[i].key < list[j].key })
	return list
}

// Owner returns the resource that key belongs to, nil if there is none. Linear in the number of resources.
func (s *State) Owner(key string) *Resource {
	for prefix, r := range s.resources {
		if strings.HasPrefix(key, prefix) {
			return r
		}
	}
	return nil
}
