package disk

import (
	"sync"

	"github.com/cockroachdb/pebble/v2"
)

// oneCompaction lets the database run one compaction at a time. The library's own scheduler does that too, but it also looks
// ten times a second whether it may run more of them, which an idle node would pay for for nothing: here the permission
// changes hands only when a compaction ends.
//
// It is called with the database's mutex held (TrySchedule) and takes that mutex in its own calls, so it never calls
// the database with mu held.
type oneCompaction struct {
	db pebble.DBForCompaction

	mu sync.Mutex
	// taken says that a compaction runs, or is being looked for by Done.
	taken bool
	// refused says that one was turned away since Done last looked.
	refused bool
	closed  bool
	// looking counts calls of Done, which Unregister waits for.
	looking sync.WaitGroup
}

var (
	_ pebble.CompactionScheduler   = (*oneCompaction)(nil)
	_ pebble.CompactionGrantHandle = (*oneCompaction)(nil)
)

// Register comes before all other calls.
func (o *oneCompaction) Register(_ int, db pebble.DBForCompaction) { o.db = db }

// Unregister returns when the database is not called any more.
func (o *oneCompaction) Unregister() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.looking.Wait()
}

// TrySchedule gives permission if no compaction has it. One that is refused is remembered by the database, and
// asked for when the other has ended.
func (o *oneCompaction) TrySchedule() (bool, pebble.CompactionGrantHandle) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.closed {
		return false, nil
	}
	if o.taken {
		o.refused = true
		return false, nil
	}
	o.taken = true
	return true, o
}

// UpdateGetAllowedWithoutPermission has nothing to tell: it is always one.
func (o *oneCompaction) UpdateGetAllowedWithoutPermission() {}

func (o *oneCompaction) Started()                                          {}
func (o *oneCompaction) MeasureCPU(pebble.CompactionGoroutineKind)         {}
func (o *oneCompaction) CumulativeStats(pebble.CompactionGrantHandleStats) {}

// Done passes the permission on from a compaction that has ended: to one that waits, or back. It keeps the permission while
// it looks, and looks again if one was refused meanwhile, so that none is forgotten and no two run.
func (o *oneCompaction) Done() {
	o.mu.Lock()
	if o.closed {
		o.mu.Unlock()
		return
	}
	o.looking.Add(1)
	defer o.looking.Done()
	for {
		o.refused = false
		o.mu.Unlock()
		if waiting, _ := o.db.GetWaitingCompaction(); waiting && o.db.Schedule(o) {
			return
		}
		o.mu.Lock()
		if !o.refused || o.closed {
			o.taken = false
			o.mu.Unlock()
			return
		}
	}
}
