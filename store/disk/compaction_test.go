package disk

import (
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2"
)

// backlog is a database that has compactions to run and remembers, as the real one does, that one was refused.
type backlog struct {
	t *testing.T
	s *oneCompaction

	mu                       sync.Mutex
	waiting                  bool
	left, running, completed int
	// late are compactions asked for just after the scheduler has heard that none waits.
	late int
	work sync.WaitGroup
}

func (b *backlog) GetAllowedWithoutPermission() int { return 1 }

func (b *backlog) GetWaitingCompaction() (bool, pebble.WaitingCompaction) {
	b.mu.Lock()
	b.waiting = b.waiting && b.left > 0
	waiting, late := b.waiting, !b.waiting && b.late > 0
	if late {
		b.late--
	}
	b.mu.Unlock()
	if late {
		b.add()
	}
	return waiting, pebble.WaitingCompaction{}
}

func (b *backlog) Schedule(pebble.CompactionGrantHandle) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.waiting || b.left == 0 {
		b.waiting = false
		return false
	}
	b.compactLocked()
	return true
}

// add asks for one more compaction, as a flush does: nothing is asked of the scheduler while one waits.
func (b *backlog) add() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.left++
	if b.waiting {
		return
	}
	if ok, _ := b.s.TrySchedule(); ok {
		b.compactLocked()
	} else {
		b.waiting = true
	}
}

func (b *backlog) compactLocked() {
	b.left--
	if b.running++; b.running > 1 {
		b.t.Errorf("%d compactions run", b.running)
	}
	b.work.Go(func() {
		b.mu.Lock()
		b.running--
		b.completed++
		b.mu.Unlock()
		b.s.Done()
	})
}

// However flushes and compactions interleave, compactions run one at a time and every one gets its turn.
func TestCompactionsTakeTurns(t *testing.T) {
	const flushers, each, late = 8, 500, 100
	b := &backlog{t: t, s: &oneCompaction{}, late: late}
	b.s.Register(1, b)
	var flushing sync.WaitGroup
	for range flushers {
		flushing.Go(func() {
			for range each {
				b.add()
			}
		})
	}
	flushing.Wait()
	b.work.Wait()
	if want := flushers*each + late; b.completed != want || b.left != 0 {
		t.Errorf("%d of %d compactions ran, %d are left", b.completed, want, b.left)
	}
	b.s.Unregister()
	if ok, _ := b.s.TrySchedule(); ok {
		t.Error("a compaction may start on a closed database")
	}
}
