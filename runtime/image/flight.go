package image

import (
	"context"
	"sync"
	"time"
)

// flights shares one pull between all who want the same image with the same credentials, and remembers which pulls failed
// and left parts to resume from. Its zero value is ready.
type flights struct {
	mu     sync.Mutex
	active map[string]*flight
	failed map[string]time.Time // lease of the parts -> when
	all    sync.WaitGroup
}

type flight struct {
	done    chan struct{}
	cancel  context.CancelFunc
	waiters int
	id      string
	err     error
}

// do runs pull under key, or joins the one that runs. The pull goes on while anybody waits for it: it ends with base, or
// when the contexts of all waiters have ended.
func (f *flights) do(ctx, base context.Context, key string, pull func(ctx context.Context) (string, error)) (string, error) {
	f.mu.Lock()
	if err := base.Err(); err != nil {
		f.mu.Unlock()
		return "", err
	}
	if f.active == nil {
		f.active = map[string]*flight{}
	}
	fl := f.active[key]
	if fl == nil {
		fl = f.start(base, key, pull)
	}
	fl.waiters++
	f.mu.Unlock()
	select {
	case <-fl.done:
		return fl.id, fl.err
	case <-ctx.Done():
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl.waiters--; fl.waiters == 0 {
		fl.cancel()
		// Whoever comes next starts anew rather than joining a pull that is ending.
		if f.active[key] == fl {
			delete(f.active, key)
		}
	}
	return "", ctx.Err()
}

func (f *flights) start(base context.Context, key string, pull func(ctx context.Context) (string, error)) *flight {
	ctx, cancel := context.WithCancel(base)
	fl := &flight{done: make(chan struct{}), cancel: cancel}
	f.active[key] = fl
	f.all.Add(1)
	go func() {
		defer f.all.Done()
		defer cancel()
		fl.id, fl.err = pull(ctx)
		f.mu.Lock()
		if f.active[key] == fl {
			delete(f.active, key)
		}
		f.mu.Unlock()
		close(fl.done)
	}()
	return fl
}

// wait returns when no pull runs any more. The base of all must have ended, so that no new one starts.
func (f *flights) wait() {
	// Whoever saw the base alive has counted itself by the time that it gives the lock back.
	f.mu.Lock()
	f.active = nil
	f.mu.Unlock()
	f.all.Wait()
}

// keep remembers that the lease holds parts of a failed pull; resumed forgets it again.
func (f *flights) keep(lease string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.failed == nil {
		f.failed = map[string]time.Time{}
	}
	f.failed[lease] = time.Now()
}

func (f *flights) resumed(lease string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.failed, lease)
}

// forget returns, and forgets, the leases of pulls that failed before t.
func (f *flights) forget(t time.Time) []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var old []string
	for lease, at := range f.failed {
		if at.Before(t) {
			old = append(old, lease)
			delete(f.failed, lease)
		}
	}
	return old
}
