package mvcc

import "sort"

// Resource is a subtree of keys with a history of its own, so that a busy kind does not push the history of a quiet
// one out of memory.
type Resource struct {
	// Prefix is what the keys of the resource begin with. It ends in a slash.
	Prefix string

	// events[head:] is the log, ordered by revision.
	events []loggedEvent
	head   int
	// floor is the revision up to which events may be missing: every event after it is in the log.
	floor int64
	// bytes is the sum of the sizes of the events in the log.
	bytes int64
	// count and data are the number of live keys and the sum of the lengths of their values.
	count, data int64
}

type loggedEvent struct {
	Event
	// at is when the event was published, in Unix milliseconds.
	at int64
}

// Count returns the number of keys that the resource has, and the sum of the lengths of their values in bytes.
func (r *Resource) Count() (keys, bytes int64) { return r.count, r.data }

// turnover is the size of the log of one change of each key, in bytes. Half of it are the present values, which the log shares with
// the tree.
func (r *Resource) turnover() int64 { return 2*r.data + eventOverhead*r.count }

// Floor returns the oldest revision whose state can be read and after which events can be replayed.
func (r *Resource) Floor() int64 { return r.floor }

// Since appends to dst at most max events after revision rev, oldest first, and says whether there are no more.
// It fails with ErrCompacted where events after rev have left the log.
func (r *Resource) Since(rev int64, max int, dst []Event) (events []Event, end bool, err error) {
	if rev < r.floor {
		return dst, false, ErrCompacted
	}
	log := r.events[r.head:]
	i := sort.Search(len(log), func(i int) bool { return log[i].Rev > rev })
	log = log[i:]
	end = len(log) <= max
	if !end {
		log = log[:max]
	}
	for j := range log {
		dst = append(dst, log[j].Event)
	}
	return dst, end, nil
}

// Any says whether there is an event after rev in the log that fn returns true for.
func (r *Resource) Any(rev int64, fn func(*Event) bool) bool {
	for i := len(r.events) - 1; i >= r.head && r.events[i].Rev > rev; i-- {
		if fn(&r.events[i].Event) {
			return true
		}
	}
	return false
}

// warmEvents is how many of the latest events keep the memos of the values that they replaced. Watchers that keep up
// read those; older ones are rarely read and cost more memory than the encoded value.
const warmEvents = 128

// append adds an event to the log and to the counts.
func (r *Resource) append(e Event, at int64) {
	r.events = append(r.events, loggedEvent{e, at})
	r.bytes += e.size()
	if e.Prev != nil {
		r.count--
		r.data -= int64(len(e.Prev.Data))
	}
	if e.Cur != nil {
		r.count++
		r.data += int64(len(e.Cur.Data))
	}
	if i := len(r.events) - 1 - warmEvents; i >= r.head && r.events[i].Prev != nil {
		r.events[i].Prev.SetMemo(nil)
	}
}

// len is the number of events in the log.
func (r *Resource) len() int { return len(r.events) - r.head }

// dropOldest removes the oldest event and returns the bytes freed.
func (r *Resource) dropOldest() int64 {
	e := &r.events[r.head]
	n := e.size()
	r.floor = e.Rev
	if e.Prev != nil {
		e.Prev.SetMemo(nil)
	}
	*e = loggedEvent{}
	r.head++
	r.bytes -= n
	// Reclaim the front once it is most of the slice: constant work for each event in the long run.
	if r.head >= 64 && r.head*2 >= len(r.events) {
		r.events = append(make([]loggedEvent, 0, r.len()+r.len()/4+16), r.events[r.head:]...)
		r.head = 0
	}
	return n
}
