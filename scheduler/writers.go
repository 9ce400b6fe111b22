package scheduler

import "sync"

// writes is how many bindings are under way at once: enough that one sync of the store's disk serves many, and few beside what the
// API server takes from all of its clients at a time.
const writes = 64

// writers do what they are given, in order and some at a time, on goroutines that end when there is nothing left. The zero value
// is ready.
type writers struct {
	mu      sync.Mutex
	waiting []func()
	running int
	all     sync.WaitGroup
}

// do has f done soon.
func (w *writers) do(f func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.waiting = append(w.waiting, f)
	if w.running < writes {
		w.running++
		w.all.Go(w.work)
	}
}

func (w *writers) work() {
	for {
		w.mu.Lock()
		if len(w.waiting) == 0 {
			w.running--
			w.waiting = nil // the room that a burst took
			w.mu.Unlock()
			return
		}
		f := w.waiting[0]
		w.waiting[0] = nil
		w.waiting = w.waiting[1:]
		w.mu.Unlock()
		f()
	}
}

// wait returns when all is done. Nothing may be given meanwhile.
func (w *writers) wait() { w.all.Wait() }
