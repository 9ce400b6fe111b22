package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// model is the naive truth: every state that ever was, and every event.
type model struct {
	rev    int64
	states map[int64]map[string]*Value
	events []Event
}

func newModel() *model {
	return &model{rev: FirstRevision, states: map[int64]map[string]*Value{FirstRevision: {}}}
}

func (m *model) apply(e Event) {
	next := maps.Clone(m.states[m.rev])
	if e.Cur == nil {
		delete(next, e.Key)
	} else {
		next[e.Key] = e.Cur
	}
	m.rev = e.Rev
	m.states[e.Rev] = next
	m.events = append(m.events, e)
}

// list returns the values at rev of the keys with prefix, from from on.
func (m *model) list(rev int64, from, prefix string) []*Value {
	var vs []*Value
	for _, k := range slices.Sorted(maps.Keys(m.states[rev])) {
		if strings.HasPrefix(k, prefix) && k >= from {
			vs = append(vs, m.states[rev][k])
		}
	}
	return vs
}

// harness runs random operations on a state and a model at once.
type harness struct {
	*testing.T
	rng       *rand.Rand
	state     *State
	model     *model
	resources []*Resource
	now       int64
	limits    Limits
	// views are views taken at some time, which must never change.
	views []*View
}

func (h *harness) key(r *Resource) string { return fmt.Sprintf("%sk%02d", r.Prefix, h.rng.IntN(30)) }

// batch writes a few keys in one batch, some with wrong expectations, and publishes it or drops it.
func (h *harness) batch() {
	b := h.state.Begin()
	pending := maps.Clone(h.model.states[h.model.rev])
	var events []Event
	rev := h.model.rev
	for range 1 + h.rng.IntN(6) {
		r := h.resources[h.rng.IntN(len(h.resources))]
		key := h.key(r)
		cur := pending[key]
		expect := h.expect(cur)
		fits := expect == AnyRevision || cur == nil && expect == 0 || cur != nil && cur.Mod == expect
		if h.rng.IntN(3) == 0 {
			at, ok := b.Delete(r, key, expect)
			if want := fits && cur != nil; ok != want {
				h.Fatalf("Delete(%s, expect %d) = %v, want %v (is %+v)", key, expect, ok, want, cur)
			}
			if ok {
				rev++
				if at != rev {
					h.Fatalf("Delete gave revision %d, want %d", at, rev)
				}
				delete(pending, key)
				events = append(events, Event{Rev: rev, Key: key, Prev: cur})
			}
			continue
		}
		data := make([]byte, h.rng.IntN(64))
		expires := int64(0)
		if h.rng.IntN(4) == 0 {
			expires = h.now + h.rng.Int64N(500)
		}
		v, ok := b.Put(r, key, data, expect, expires)
		if ok != fits {
			h.Fatalf("Put(%s, expect %d) = %v, want %v (is %+v)", key, expect, ok, fits, cur)
		}
		if !ok {
			continue
		}
		rev++
		create, version := rev, int64(1)
		if cur != nil {
			create, version = cur.Create, cur.Version+1
		}
		if v.Mod != rev || v.Create != create || v.Version != version || !bytes.Equal(v.Data, data) || v.Expires != expires {
			h.Fatalf("Put gave %+v at revision %d after %+v", v, rev, cur)
		}
		pending[key] = v
		events = append(events, Event{Rev: rev, Key: key, Cur: v, Prev: cur})
	}
	if h.state.Rev() != h.model.rev {
		h.Fatalf("an unpublished batch is visible")
	}
	if h.rng.IntN(8) == 0 {
		return
	}
	var seen []Event
	h.state.Publish(b, h.now, func(_ *Resource, e Event) { seen = append(seen, e) })
	if !slices.Equal(seen, events) {
		h.Fatalf("published %v, want %v", seen, events)
	}
	for _, e := range events {
		h.model.apply(e)
	}
}

// expect picks what a write expects of a key that holds cur: mostly what is so.
func (h *harness) expect(cur *Value) int64 {
	switch h.rng.IntN(6) {
	case 0:
		return AnyRevision
	case 1:
		return h.rng.Int64N(h.model.rev + 2)
	}
	if cur == nil {
		return 0
	}
	return cur.Mod
}

func (h *harness) read() {
	r := h.resources[h.rng.IntN(len(h.resources))]
	rev := h.model.rev - h.rng.Int64N(min(h.model.rev, 80)) + h.rng.Int64N(2)
	v, err := h.state.At(r, rev)
	switch {
	case rev > h.model.rev:
		if !errors.Is(err, ErrFuture) {
			h.Fatalf("At(%d) of %d: %v", rev, h.model.rev, err)
		}
		return
	case rev < r.Floor() || rev < h.state.Compacted():
		if !errors.Is(err, ErrCompacted) {
			h.Fatalf("At(%d) with floor %d: %v", rev, r.Floor(), err)
		}
		return
	case err != nil:
		h.Fatal(err)
	}
	h.checkView(v, r)
	if rev == h.model.rev && h.rng.IntN(10) == 0 {
		h.views = append(h.views, v)
	}
}

func (h *harness) checkView(v *View, r *Resource) {
	h.Helper()
	from := h.key(r)
	prefix := r.Prefix + []string{"", "k1"}[h.rng.IntN(2)]
	want := h.model.list(v.Rev(), from, prefix)
	stop := h.rng.IntN(40)
	var got []*Value
	v.Ascend(from, prefix, func(v *Value) bool {
		got = append(got, v)
		return len(got) <= stop
	})
	if !slices.Equal(got, want[:min(len(want), stop+1)]) {
		h.Fatalf("Ascend(%s, %s) at %d: got %d values, want %d", from, prefix, v.Rev(), len(got), len(want))
	}
	if n := v.Count(from, prefix); n != int64(len(want)) {
		h.Fatalf("Count = %d, want %d", n, len(want))
	}
	key := h.key(r)
	if v.Get(key) != h.model.states[v.Rev()][key] {
		h.Fatalf("Get(%s) at %d differs", key, v.Rev())
	}
}

func (h *harness) replay() {
	r := h.resources[h.rng.IntN(len(h.resources))]
	rev := h.model.rev - h.rng.Int64N(min(h.model.rev, 60))
	most := 1 + h.rng.IntN(20)
	got, end, err := r.Since(rev, most, nil)
	if rev < r.Floor() {
		if !errors.Is(err, ErrCompacted) {
			h.Fatalf("Since(%d) with floor %d: %v", rev, r.Floor(), err)
		}
		return
	}
	var want []Event
	for _, e := range h.model.events {
		if e.Rev > rev && strings.HasPrefix(e.Key, r.Prefix) {
			want = append(want, e)
		}
	}
	if wantEnd := len(want) <= most; end != wantEnd || !slices.Equal(got, want[:min(len(want), most)]) {
		h.Fatalf("Since(%d, %d): got %d events, end %v; want %d", rev, most, len(got), end, len(want))
	}
}

func (h *harness) expire() {
	now := h.now + h.rng.Int64N(200)
	var want []*Value
	next := int64(0)
	for _, v := range h.model.states[h.model.rev] {
		if v.Expires == 0 {
			continue
		}
		if v.Expires <= now {
			want = append(want, v)
		}
		if next == 0 || v.Expires < next {
			next = v.Expires
		}
	}
	got := h.state.Expired(now, 1000, nil)
	if len(got) != len(want) || !slices.IsSortedFunc(got, func(a, b *Value) int { return int(a.Expires - b.Expires) }) {
		h.Fatalf("Expired: %d values, want %d", len(got), len(want))
	}
	if at, ok := h.state.NextExpiry(); ok != (next != 0) || at != next {
		h.Fatalf("NextExpiry = %d, %v, want %d", at, ok, next)
	}
}

// invariants checks what must hold at any time.
func (h *harness) invariants() {
	var sum, turnover int64
	for _, r := range h.resources {
		sum += r.bytes
		var keys, data int64
		for _, v := range h.model.list(h.model.rev, "", r.Prefix) {
			keys++
			data += int64(len(v.Data))
		}
		once := 2*data + eventOverhead*keys // one change of each
		turnover += once
		if h.limits.ResourceEvents > 0 && int64(r.len()) > max(int64(h.limits.ResourceEvents), keys) ||
			h.limits.ResourceBytes > 0 && r.bytes > max(h.limits.ResourceBytes, once) {
			h.Fatalf("the log of %s exceeds its limits: %d events, %d bytes", r.Prefix, r.len(), r.bytes)
		}
		if k, d := r.Count(); k != keys || d != data {
			h.Fatalf("Count of %s = %d, %d, want %d, %d", r.Prefix, k, d, keys, data)
		}
	}
	if sum != h.state.logBytes || h.limits.Bytes > 0 && sum > max(h.limits.Bytes, turnover) {
		h.Fatalf("the logs hold %d bytes, counted %d, limit %d or %d", sum, h.state.logBytes, h.limits.Bytes, turnover)
	}
	for _, v := range h.views {
		h.checkView(v, h.resources[h.rng.IntN(len(h.resources))])
	}
}

// TestAgainstModel runs random operations and compares every answer with that of the model.
func TestAgainstModel(t *testing.T) {
	limits := []Limits{
		{},
		{ResourceEvents: 20},
		{ResourceBytes: 8 << 10, Bytes: 12 << 10},
		{Age: 50, Bytes: 64 << 10},
		{ResourceEvents: 4, ResourceBytes: 1 << 10, Bytes: 2 << 10},
	}
	for seed := range uint64(30) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			l := limits[seed%uint64(len(limits))]
			h := &harness{T: t, rng: rand.New(rand.NewPCG(seed, 1)), state: New(l), model: newModel(), limits: l}
			for _, p := range []string{"/a/", "/b/", "/c/x/"} {
				h.resources = append(h.resources, h.state.Resource(p))
			}
			for range 1500 {
				h.now += h.rng.Int64N(5)
				switch h.rng.IntN(8) {
				case 0, 1, 2:
					h.batch()
				case 3, 4:
					h.read()
				case 5:
					h.replay()
				case 6:
					h.expire()
				case 7:
					h.compact()
				}
				h.invariants()
			}
		})
	}
}

func (h *harness) compact() {
	if h.rng.IntN(20) != 0 {
		h.state.TrimAge(h.now)
		return
	}
	rev := h.model.rev - h.rng.Int64N(min(h.model.rev, 30))
	before := h.state.Compacted()
	err := h.state.Compact(rev)
	if rev <= before {
		if !errors.Is(err, ErrCompacted) {
			h.Fatalf("Compact(%d) after %d: %v", rev, before, err)
		}
		return
	}
	if err != nil || h.state.Compacted() != rev {
		h.Fatalf("Compact(%d): %v", rev, err)
	}
	if err := h.state.Compact(h.model.rev + 1); !errors.Is(err, ErrFuture) {
		h.Fatalf("Compact into the future: %v", err)
	}
}

// TestChangeOfEach checks that a log which is too small for it holds one change of each object all the same, and gives that up
// with the objects.
func TestChangeOfEach(t *testing.T) {
	s := New(Limits{ResourceEvents: 3, ResourceBytes: 1000, Bytes: 2000})
	r := s.Resource("/a/")
	const objects = 100
	write := func(i int) {
		b := s.Begin()
		if _, ok := b.Put(r, fmt.Sprintf("/a/%03d", i), make([]byte, 50), AnyRevision, 0); !ok {
			t.Fatal("not written")
		}
		s.Publish(b, 1, nil)
	}
	for i := range objects {
		write(i)
	}
	from := s.Rev()
	for i := range objects {
		write(i)
	}
	if events, end, err := r.Since(from, objects+1, nil); len(events) != objects || !end || err != nil {
		t.Errorf("after a change of each of %d objects the log has %d of them, %v, %v", objects, len(events), end, err)
	}
	b := s.Begin()
	for i := range objects {
		b.Delete(r, fmt.Sprintf("/a/%03d", i), AnyRevision)
	}
	s.Publish(b, 1, nil)
	if r.len() > 3 || r.bytes > 1000 || s.logBytes != r.bytes || s.turnover != 0 {
		t.Errorf("with no objects the log has %d events of %d bytes (%d, %d)", r.len(), r.bytes, s.logBytes, s.turnover)
	}
}

// TestReadAge checks that revisions of long ago are not read, also those of resources that have not changed since, while
// watches may begin there.
func TestReadAge(t *testing.T) {
	s := New(Limits{Age: 1000, ReadAge: 100})
	a, b := s.Resource("/a/"), s.Resource("/b/")
	write := func(r *Resource, now int64) {
		batch := s.Begin()
		if _, ok := batch.Put(r, r.Prefix+"1", []byte("x"), AnyRevision, 0); !ok {
			t.Fatalf("%s was not written", r.Prefix)
		}
		s.Publish(batch, now, nil)
		s.TrimAge(now)
	}
	write(a, 0)
	old := s.Rev()
	for now := int64(10); now <= 90; now += 10 {
		write(b, now)
	}
	if _, err := s.At(a, old); err != nil {
		t.Errorf("At(%d) while it is young: %v", old, err)
	}
	write(b, 110)
	for r := range map[*Resource]bool{a: true, b: true} {
		if _, err := s.At(r, old); !errors.Is(err, ErrCompacted) {
			t.Errorf("%s: At(%d) when it is old: %v", r.Prefix, old, err)
		}
		if _, _, err := r.Since(old, 1, nil); err != nil {
			t.Errorf("%s: Since(%d): %v", r.Prefix, old, err)
		}
	}
	if _, err := s.At(a, s.Rev()); err != nil {
		t.Errorf("At the present: %v", err)
	}
}

// TestRestore checks that a state made from what was stored goes on where it was, with no history.
func TestRestore(t *testing.T) {
	s := New(Limits{})
	s.Restore(&Value{Key: "/a/1", Data: []byte("x"), Create: 3, Mod: 7, Version: 2})
	s.Restore(&Value{Key: "/b/1", Data: []byte("y"), Create: 4, Mod: 4, Version: 1, Expires: 9})
	s.Restored(12)
	a := s.Resource("/a/")
	if k, d := a.Count(); k != 1 || d != 1 {
		t.Errorf("Count = %d, %d", k, d)
	}
	if _, err := s.At(a, 11); !errors.Is(err, ErrCompacted) {
		t.Errorf("At(11) = %v", err)
	}
	if _, _, err := a.Since(11, 1, nil); !errors.Is(err, ErrCompacted) {
		t.Errorf("Since(11) = %v", err)
	}
	if _, end, err := a.Since(12, 1, nil); err != nil || !end {
		t.Errorf("Since(12) = %v, %v", end, err)
	}
	if at, ok := s.NextExpiry(); !ok || at != 9 {
		t.Errorf("NextExpiry = %d, %v", at, ok)
	}
	b := s.Begin()
	if v, ok := b.Put(a, "/a/1", nil, 7, 0); !ok || v.Mod != 13 || v.Create != 3 || v.Version != 3 {
		t.Errorf("Put = %+v, %v", v, ok)
	}
}
