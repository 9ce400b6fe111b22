package scheduler

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	eventsv1 "k8s.io/api/events/v1"
	"k8s.io/client-go/tools/events"
)

// slow is where events are written to, each when it is let.
type slow struct {
	events.EventSink
	let chan struct{}
	// at has a token for each event that is being written, or was.
	at chan struct{}

	mu            sync.Mutex
	running, most int
}

func (s *slow) Create(context.Context, *eventsv1.Event) (*eventsv1.Event, error) {
	s.count(1)
	defer s.count(-1)
	s.at <- struct{}{}
	<-s.let
	return nil, nil
}

func (s *slow) count(d int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.running += d
	s.most = max(s.most, s.running)
}

// So many events are written at a time, the others wait for their turn, and none is lost.
func TestEventsWaitForTheirTurn(t *testing.T) {
	const all = 5 * tells
	to := &slow{let: make(chan struct{}), at: make(chan struct{}, all)}
	s := &sink{to: to, slots: make(chan struct{}, tells)}
	var writing sync.WaitGroup
	for range all {
		writing.Go(func() {
			if _, err := s.Create(t.Context(), nil); err != nil {
				t.Error(err)
			}
		})
	}
	for range tells {
		<-to.at
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := s.Create(ended, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("who does not want to wait any more got %v", err)
	}
	for range all - tells {
		to.let <- struct{}{}
		<-to.at
	}
	close(to.let)
	writing.Wait()
	if to.most != tells {
		t.Errorf("%d at once, want %d", to.most, tells)
	}
}

// Bindings begin in order, so many at a time, and all are done in the end.
func TestWritersTakeTurns(t *testing.T) {
	const all = 5 * writes
	var w writers
	begun, let := make(chan int, all), make(chan struct{})
	var running, most atomic.Int32
	for i := range all {
		w.do(func() {
			if n := running.Add(1); n > most.Load() {
				most.Store(n)
			}
			begun <- i
			<-let
			running.Add(-1)
		})
	}
	seen := map[int]bool{}
	for range writes {
		seen[<-begun] = true
	}
	for i := range writes {
		if !seen[i] {
			t.Errorf("the first %d do not have %d among them", writes, i)
		}
	}
	w.mu.Lock()
	if w.running != writes || len(w.waiting) != all-writes {
		t.Errorf("%d at work and %d waiting, want %d and %d", w.running, len(w.waiting), writes, all-writes)
	}
	w.mu.Unlock()
	close(let)
	w.wait()
	for range all - writes {
		seen[<-begun] = true
	}
	if len(seen) != all || most.Load() > writes {
		t.Errorf("%d were done, %d at once, want %d, %d", len(seen), most.Load(), all, writes)
	}
	w.do(func() { seen[all] = true })
	w.wait()
	if !seen[all] {
		t.Error("what came after all were done was not done")
	}
}
