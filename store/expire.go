package store

import (
	"math"
	"time"

	"k8s.io/utils/clock"

	"github.com/peapod/peapod/store/mvcc"
)

// expireRetry is the pause after objects could not be deleted, because the disk is full for instance.
const expireRetry = 10 * time.Second

// maxExpired is how many objects are deleted in one go.
const maxExpired = 256

// runExpirer deletes objects when their time has come. It sleeps until the first one's.
func (s *Store) runExpirer() {
	timer := alarm{clock: s.cfg.Clock}
	defer timer.stop()
	var expired []*mvcc.Value
	for {
		now := s.cfg.Clock.Now().UnixMilli()
		s.mu.RLock()
		expired = s.state.Expired(now, maxExpired, expired[:0])
		next, ok := s.state.NextExpiry()
		if !ok {
			next = math.MaxInt64
		}
		// Under the lock, so that a write that publishes after this sees it.
		s.nextExpiry.Store(next)
		s.mu.RUnlock()
		if len(expired) > 0 {
			if s.deleteExpired(expired) {
				continue
			}
			timer.set(expireRetry)
		} else if ok {
			timer.set(time.Duration(next-now) * time.Millisecond)
		}
		select {
		case <-timer.c:
		case <-s.expiry:
			timer.stop()
		case <-s.stop:
			return
		}
	}
}

// alarm is a timer that is made when it is first set. Its channel blocks for ever before.
type alarm struct {
	clock clock.Clock
	timer clock.Timer
	c     <-chan time.Time
}

func (a *alarm) set(in time.Duration) {
	if a.timer == nil {
		a.timer = a.clock.NewTimer(in)
		a.c = a.timer.C()
		return
	}
	a.timer.Reset(in)
}

func (a *alarm) stop() {
	if a.timer != nil {
		a.timer.Stop()
	}
}

// deleteExpired deletes the values unless they have been written since, and says whether that worked.
func (s *Store) deleteExpired(values []*mvcc.Value) bool {
	writes := make([]*write, len(values))
	s.mu.RLock()
	for i, v := range values {
		writes[i] = &write{family: s.state.Owner(v.Key), key: v.Key, expect: v.Mod, delete: true, done: make(chan struct{})}
	}
	s.mu.RUnlock()
	for _, w := range writes {
		select {
		case s.writes <- w:
		case <-s.stop:
			return false
		}
	}
	ok := true
	for _, w := range writes {
		select {
		case <-w.done:
			if w.err != nil {
				s.log.Error(w.err, "Could not delete an expired object", "key", w.key)
				ok = false
			}
		case <-s.stop:
			return false
		}
	}
	return ok
}
