// Package queue holds the Pods that wait for a node: those to be tried next, those that fail and must wait a little, and
// those for which nothing has happened that could help. It has no lock and no clock: the time is passed in.
package queue

import (
	"container/heap"
	"slices"
	"time"

	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/framework"
)

// Back-off of a Pod that was tried in vain, as upstream's.
const (
	backoffFirst = time.Second
	backoffMax   = 10 * time.Second
)

// state is where a Pod waits.
type state int

const (
	active state = iota
	backingOff
	waiting
)

// entry is a Pod that waits.
type entry struct {
	pod *framework.Pod
	// added orders Pods of one priority, since is when the Pod could first be tried; both are set once.
	added    uint64
	since    time.Time
	attempts int
	until    time.Time // end of the back-off
	state    state
	// rejectedBy are the plugins whose events wake it.
	rejectedBy []string
	// held says that the Pod waits for something that is to be there before it is tried at all.
	held  bool
	index int // in the heap of its state
}

// Queue is not safe for concurrent use.
type Queue struct {
	// Entered is told of each Pod that comes into a queue, by upstream's names of queue and event. It may be nil.
	Entered func(queue, event string)

	entries map[types.UID]*entry
	ready   entryHeap
	later   entryHeap
	waiters map[types.UID]*entry
	wakers  map[string]framework.Waker
	serial  uint64
}

// New returns an empty queue. plugins say which events help the Pods that they turned away.
func New(plugins []framework.Plugin) *Queue {
	q := &Queue{
		entries: map[types.UID]*entry{}, waiters: map[types.UID]*entry{}, wakers: map[string]framework.Waker{},
		ready: entryHeap{less: before}, later: entryHeap{less: func(a, b *entry) bool { return a.until.Before(b.until) }},
	}
	for _, p := range plugins {
		if w, ok := p.(framework.Waker); ok {
			q.wakers[p.Name()] = w
		}
	}
	return q
}

// before orders by priority, then by age.
func before(a, b *entry) bool {
	if pa, pb := a.pod.Priority(), b.pod.Priority(); pa != pb {
		return pa > pb
	}
	return a.added < b.added
}

// Put adds a Pod that needs a node, or replaces what is known of one that waits. A changed Pod is tried again, as the
// change may be what helps. event says what became of it.
func (q *Queue) Put(pod *framework.Pod, event string, now time.Time) {
	e := q.entries[pod.UID]
	if e == nil {
		q.serial++
		e = &entry{pod: pod, added: q.serial, since: now, state: -1}
		q.entries[pod.UID] = e
		q.move(e, active, event)
		return
	}
	q.remove(e)
	e.pod = pod
	q.wake(e, event, now)
}

// Refresh replaces what is known of a Pod that waits, where the change cannot help it.
func (q *Queue) Refresh(pod *framework.Pod) {
	if e := q.entries[pod.UID]; e != nil {
		e.pod = pod
	}
}

// Delete forgets a Pod.
func (q *Queue) Delete(uid types.UID) {
	if e := q.entries[uid]; e != nil {
		q.remove(e)
		delete(q.entries, uid)
	}
}

// Has says whether a Pod waits.
func (q *Queue) Has(uid types.UID) bool { return q.entries[uid] != nil }

// Pop takes the next Pod to try, nil if there is none now.
func (q *Queue) Pop(now time.Time) *framework.Pod {
	for q.later.Len() > 0 && !q.later.items[0].until.After(now) {
		e := q.later.items[0]
		q.remove(e)
		q.move(e, active, framework.BackoffComplete)
	}
	if q.ready.Len() == 0 {
		return nil
	}
	e := q.ready.items[0]
	q.remove(e)
	e.attempts++
	return e.pod
}

// Tries says how often a Pod was popped that is known here, and since when it could be.
func (q *Queue) Tries(uid types.UID) (attempts int, since time.Time) {
	if e := q.entries[uid]; e != nil {
		return e.attempts, e.since
	}
	return 0, time.Time{}
}

// Next says when Pop has something to give where it has nothing now; zero if only an event can help.
func (q *Queue) Next() time.Time {
	if q.later.Len() == 0 {
		return time.Time{}
	}
	return q.later.items[0].until
}

// Failed takes back a Pod that was popped and fits nowhere; it waits until something helps one of the plugins in
// rejectedBy. With none, it is tried again after its back-off (an error rather than a verdict).
func (q *Queue) Failed(uid types.UID, rejectedBy []string, now time.Time) {
	e := q.entries[uid]
	if e == nil || e.state >= 0 {
		return // deleted, or changed and put back, meanwhile
	}
	e.until = now.Add(min(backoffFirst<<min(e.attempts-1, 10), backoffMax))
	e.rejectedBy = rejectedBy
	if len(rejectedBy) == 0 {
		q.move(e, backingOff, framework.ScheduleAttemptFailure)
		return
	}
	q.move(e, waiting, framework.ScheduleAttemptFailure)
}

// Hold takes back a Pod that was popped too early: it waits until something helps the plugin, and that it was tried does not count.
func (q *Queue) Hold(uid types.UID, plugin string) {
	if e := q.entries[uid]; e != nil && e.state < 0 {
		e.attempts--
		e.rejectedBy = []string{plugin}
		e.held = true
		q.move(e, waiting, framework.PodAdd)
	}
}

// Retry has a Pod that waits for an event tried again after its back-off.
func (q *Queue) Retry(uid types.UID) {
	if e := q.entries[uid]; e != nil && e.state == waiting {
		q.remove(e)
		q.move(e, backingOff, framework.ForceActivate)
	}
}

// Happened wakes the Pods that e could help. It costs a look at each waiting Pod.
func (q *Queue) Happened(e framework.Event, now time.Time) {
	label := "" // most events wake nobody
	for _, w := range q.waiters {
		if slices.ContainsFunc(w.rejectedBy, func(name string) bool {
			waker := q.wakers[name]
			return waker != nil && waker.Helps(w.pod, e)
		}) {
			if label == "" {
				label = e.Label()
			}
			q.remove(w)
			// What it waited for has come: no reason to wait out a back-off, which is for errors. A Pod that is woken
			// and rejected over and over waits longer each time.
			if w.attempts > freeAttempts {
				q.wake(w, label, now)
			} else {
				q.move(w, active, label)
			}
		}
	}
}

// freeAttempts are how often a Pod is tried at once when an event may help, before its back-off counts.
const freeAttempts = 5

// wake makes e ready, after its back-off.
func (q *Queue) wake(e *entry, event string, now time.Time) {
	if e.until.After(now) && e.attempts > freeAttempts {
		q.move(e, backingOff, event)
		return
	}
	q.move(e, active, event)
}

// names are upstream's of the queues.
var names = [...]string{active: "active", backingOff: "backoff", waiting: "unschedulable"}

func (q *Queue) move(e *entry, to state, event string) {
	if q.Entered != nil {
		q.Entered(names[to], event)
	}
	e.state = to
	switch to {
	case active:
		heap.Push(&q.ready, e)
	case backingOff:
		heap.Push(&q.later, e)
	case waiting:
		q.waiters[e.pod.UID] = e
	}
}

// remove takes e out of where it waits; it stays known.
func (q *Queue) remove(e *entry) {
	switch e.state {
	case active:
		heap.Remove(&q.ready, e.index)
	case backingOff:
		heap.Remove(&q.later, e.index)
	case waiting:
		delete(q.waiters, e.pod.UID)
		e.held = false
	}
	e.state = -1
}

// entryHeap is a heap of entries that know their place.
type entryHeap struct {
	items []*entry
	less  func(a, b *entry) bool
}

func (h *entryHeap) Len() int           { return len(h.items) }
func (h *entryHeap) Less(i, j int) bool { return h.less(h.items[i], h.items[j]) }
func (h *entryHeap) Swap(i, j int) {
	h.items[i], h.items[j] = h.items[j], h.items[i]
	h.items[i].index, h.items[j].index = i, j
}
func (h *entryHeap) Push(x any) {
	e := x.(*entry)
	e.index = len(h.items)
	h.items = append(h.items, e)
}
func (h *entryHeap) Pop() any {
	e := h.items[len(h.items)-1]
	h.items[len(h.items)-1] = nil
	h.items = h.items[:len(h.items)-1]
	return e
}
