package mvcc

// AnyRevision as the expected revision of a write means that the key may be in whatever state.
const AnyRevision = -1

// Batch is a run of writes that become visible together. It is valid until the next batch is published.
type Batch struct {
	state   *State
	rev     int64
	events  []Event
	owners  []*Resource
	pending map[string]*Value
}

// Begin starts a batch on top of the present state. Only one batch may be open at a time.
func (s *State) Begin() *Batch {
	return &Batch{state: s, rev: s.rev, pending: map[string]*Value{}}
}

// Rev returns the revision after the batch.
func (b *Batch) Rev() int64 { return b.rev }

// Events returns what the batch does, in order.
func (b *Batch) Events() []Event { return b.events }

// current returns what key holds after what the batch has done so far.
func (b *Batch) current(key string) *Value {
	if v, ok := b.pending[key]; ok {
		return v
	}
	return b.state.Get(key)
}

// matches says whether cur is at the expected revision: 0 means that the key does not exist.
func matches(cur *Value, expect int64) bool {
	switch {
	case expect == AnyRevision:
		return true
	case cur == nil:
		return expect == 0
	default:
		return cur.Mod == expect
	}
}

// Put writes key where it was last modified at revision expect (0: does not exist), and returns the value written. It
// returns false, and does nothing, where the key is in another state. r may be nil for a key of no resource: such a key
// has no history.
func (b *Batch) Put(r *Resource, key string, data []byte, expect, expires int64) (*Value, bool) {
	cur := b.current(key)
	if !matches(cur, expect) {
		return nil, false
	}
	b.rev++
	v := &Value{Key: key, Data: data, Create: b.rev, Mod: b.rev, Version: 1, Expires: expires}
	if cur != nil {
		v.Create, v.Version = cur.Create, cur.Version+1
	}
	b.add(r, Event{Rev: b.rev, Key: key, Cur: v, Prev: cur})
	return v, true
}

// Delete removes key where it was last modified at revision expect, and returns the revision of the deletion. It
// returns false, and does nothing, where the key is in another state or does not exist.
func (b *Batch) Delete(r *Resource, key string, expect int64) (int64, bool) {
	cur := b.current(key)
	if cur == nil || !matches(cur, expect) {
		return 0, false
	}
	b.rev++
	b.add(r, Event{Rev: b.rev, Key: key, Prev: cur})
	return b.rev, true
}

func (b *Batch) add(r *Resource, e Event) {
	b.pending[e.Key] = e.Cur
	b.events = append(b.events, e)
	b.owners = append(b.owners, r)
}

// Publish makes the batch visible. now is the time in Unix milliseconds, by which old events leave the log. see, which
// may be nil, is told each event of a resource in order, once the state has it.
func (s *State) Publish(b *Batch, now int64, see func(*Resource, Event)) {
	for i, e := range b.events {
		if e.Prev != nil && e.Prev.Expires != 0 {
			s.expiry.Delete(e.Prev)
		}
		if e.Cur == nil {
			s.tree.Delete(e.Prev)
		} else {
			s.tree.Set(e.Cur)
			if e.Cur.Expires != 0 {
				s.expiry.Set(e.Cur)
			}
		}
		s.rev = e.Rev
		r := b.owners[i]
		if r == nil {
			s.unowned = e.Rev
			continue
		}
		bytes, turnover := r.bytes, r.turnover()
		r.append(e, now)
		s.logBytes += r.bytes - bytes
		s.turnover += r.turnover() - turnover
		s.trim(r, now)
		if see != nil {
			see(r, e)
		}
	}
	s.view = nil
}
