package store

import (
	"container/heap"
	"sync"
	"time"

	"k8s.io/utils/clock"
)

// bookmarker asks watchers for bookmarks: all of them together every interval, and each shortly before its deadline, so
// that its client can go on from there. It has one timer, which rests while nobody wants bookmarks.
type bookmarker struct {
	clock    clock.Clock
	interval time.Duration
	// changed wakes run when the earliest due time has changed.
	changed chan struct{}

	mu    sync.Mutex
	queue bookmarkQueue
	of    map[*watcher]*bookmarkEntry
}

// bookmarkEntry is a watcher and when it is due next. deadline is zero for none.
type bookmarkEntry struct {
	watcher  *watcher
	due      time.Time
	deadline time.Time
	index    int
}

func newBookmarker(c clock.Clock, interval time.Duration) *bookmarker {
	return &bookmarker{clock: c, interval: interval, changed: make(chan struct{}, 1), of: map[*watcher]*bookmarkEntry{}}
}

// add begins to ask w for bookmarks; deadline is when the watch ends, zero for never.
func (b *bookmarker) add(w *watcher, deadline time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	e := &bookmarkEntry{watcher: w, deadline: deadline}
	b.schedule(e, b.clock.Now())
	b.of[w] = e
	heap.Push(&b.queue, e)
	if e.index == 0 {
		b.rouse()
	}
}

// remove ceases to ask w.
func (b *bookmarker) remove(w *watcher) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if e := b.of[w]; e != nil {
		heap.Remove(&b.queue, e.index)
		delete(b.of, w)
	}
}

func (b *bookmarker) rouse() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// schedule sets when e is due after now: at the next multiple of the interval, which is the same for all, or just before
// the deadline.
func (b *bookmarker) schedule(e *bookmarkEntry, now time.Time) {
	e.due = now.Truncate(b.interval).Add(b.interval)
	if e.deadline.IsZero() {
		return
	}
	last := e.deadline.Add(-beforeDeadline)
	if last.After(now) && last.Before(e.due) {
		e.due = last
	}
}

// run asks for bookmarks until stop is closed.
func (b *bookmarker) run(stop <-chan struct{}) {
	timer := alarm{clock: b.clock}
	defer timer.stop()
	for {
		if wait, ok := b.ask(); ok {
			timer.set(wait)
		}
		select {
		case <-timer.c:
		case <-b.changed:
			timer.stop()
		case <-stop:
			return
		}
	}
}

// ask asks every watcher that is due, and returns how long it is until the next one is.
func (b *bookmarker) ask() (wait time.Duration, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	now := b.clock.Now()
	for len(b.queue) > 0 {
		e := b.queue[0]
		if wait := e.due.Sub(now); wait > 0 {
			return wait, true
		}
		e.watcher.bookmark()
		b.schedule(e, now)
		heap.Fix(&b.queue, 0)
	}
	return 0, false
}

// bookmarkQueue is a heap of entries by when they are due.
type bookmarkQueue []*bookmarkEntry

func (q bookmarkQueue) Len() int           { return len(q) }
func (q bookmarkQueue) Less(i, j int) bool { return q[i].due.Before(q[j].due) }
func (q bookmarkQueue) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

func (q *bookmarkQueue) Push(x any) {
	e := x.(*bookmarkEntry)
	e.index = len(*q)
	*q = append(*q, e)
}

func (q *bookmarkQueue) Pop() any {
	old := *q
	e := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return e
}
