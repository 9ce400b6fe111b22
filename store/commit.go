package store

import (
	"context"
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/store/disk"
	"github.com/peapod/peapod/store/mvcc"
)

// A batch holds at most so many writes and, unless it is a single write, so many bytes: well below the size at which
// the database would treat it as special.
const (
	maxBatchWrites = 512
	maxBatchBytes  = 768 << 10
)

// trimEvery is how often the history of all resources is looked at for what is too old, in milliseconds. A write does it
// in passing: an idle store does nothing.
const trimEvery = 30_000

// write is a change of one key on its way through the committer, which alone touches it until done is closed.
type write struct {
	family *mvcc.Resource
	key    string
	// expect is the revision that the key must have been modified at; see mvcc.Batch.Put.
	expect int64
	delete bool
	// data and expires are what is put.
	data    []byte
	expires int64
	// object is what data decodes to, for the watchers to share, or nil; owner is the coder that made it. The committer
	// stamps it with the revision.
	object runtime.Object
	owner  *coder

	// rev is the revision of the change, 0 where the key was not as expected. err is why the change failed.
	rev  int64
	err  error
	done chan struct{}
}

// submit passes w through the committer and waits until it is durable and visible. It returns false where the key was
// not at the expected revision.
func (s *Store) submit(ctx context.Context, w *write) (ok bool, err error) {
	w.done = make(chan struct{})
	select {
	case <-s.stop:
		return false, storage.NewInternalError(errClosed)
	default:
	}
	select {
	case s.writes <- w:
	case <-ctx.Done():
		return false, timedOut(ctx)
	case <-s.stop:
		return false, storage.NewInternalError(errClosed)
	}
	select {
	case <-w.done:
		return w.rev != 0, w.err
	case <-ctx.Done():
		// The write may still happen, as with any request that times out.
		return false, timedOut(ctx)
	case <-s.finished:
	}
	select {
	case <-w.done:
		return w.rev != 0, w.err
	default:
		// It came into the queue as the committer left.
		return false, storage.NewInternalError(errClosed)
	}
}

// runCommitter turns the queue into batches. While one is being synced the next one gathers.
func (s *Store) runCommitter() {
	defer close(s.finished)
	batch := make([]*write, 0, maxBatchWrites)
	for {
		select {
		case w := <-s.writes:
			batch = s.gather(append(batch[:0], w))
			s.commit(batch)
			clear(batch)
		case <-s.stop:
			s.refuseQueued()
			return
		}
	}
}

// gather adds to batch what is in the queue.
func (s *Store) gather(batch []*write) []*write {
	size := len(batch[0].data)
	for len(batch) < maxBatchWrites && size < maxBatchBytes {
		select {
		case w := <-s.writes:
			batch, size = append(batch, w), size+len(w.data)
		default:
			return batch
		}
	}
	return batch
}

// refuseQueued fails the writes that came too late.
func (s *Store) refuseQueued() {
	for {
		select {
		case w := <-s.writes:
			w.err = storage.NewInternalError(errClosed)
			close(w.done)
		default:
			return
		}
	}
}

// commit checks the writes, makes those that pass durable, makes them visible and answers all of them, in this order.
func (s *Store) commit(writes []*write) {
	puts := s.tryCommit(writes)
	// Where the disk is nearly full, what only deletes may still pass.
	if len(puts) > 0 && len(puts) < len(writes) {
		var rest []*write
		for _, w := range writes {
			if w.delete {
				w.rev, w.err = 0, nil
				rest = append(rest, w)
			}
		}
		s.tryCommit(rest)
	}
	for _, w := range writes {
		close(w.done)
	}
}

// tryCommit is commit without the answers. It returns the writes that need space, where that is what there is too
// little of.
func (s *Store) tryCommit(writes []*write) (needSpace []*write) {
	s.mu.RLock()
	batch := s.state.Begin()
	for _, w := range writes {
		s.check(batch, w)
	}
	s.mu.RUnlock()
	if len(batch.Events()) == 0 {
		return nil
	}
	if err := s.disk.Commit(batch.Rev(), batch.Events()); err != nil {
		for _, w := range writes {
			w.rev, w.err = 0, storage.NewInternalError(fmt.Errorf("write %s: %w", w.key, err))
			if !w.delete && errors.Is(err, disk.ErrNoSpace) {
				needSpace = append(needSpace, w)
			}
		}
		return needSpace
	}
	s.publish(batch)
	return nil
}

// check adds w to the batch if the key is as expected, and gives it its revision.
func (s *Store) check(batch *mvcc.Batch, w *write) {
	if w.delete {
		w.rev, _ = batch.Delete(w.family, w.key, w.expect)
		return
	}
	v, ok := batch.Put(w.family, w.key, w.data, w.expect, w.expires)
	if !ok {
		return
	}
	w.rev = v.Mod
	if w.object != nil {
		if err := w.owner.versioner.UpdateObject(w.object, uint64(v.Mod)); err == nil {
			v.SetMemo(w.owner.newMemo(w.object))
		}
	}
}

// publish makes a batch visible and wakes the watchers that it concerns.
func (s *Store) publish(batch *mvcc.Batch) {
	now := s.cfg.Clock.Now().UnixMilli()
	s.mu.Lock()
	s.state.Publish(batch, now, s.dispatch)
	if now-s.trimmed >= trimEvery {
		s.state.TrimAge(now)
		s.trimmed = now
	}
	next, ok := s.state.NextExpiry()
	s.mu.Unlock()
	if ok && next < s.nextExpiry.Load() {
		select {
		case s.expiry <- struct{}{}:
		default:
		}
	}
}

// dispatch tells the watchers of a resource about an event. It runs under mu.
func (s *Store) dispatch(r *mvcc.Resource, e mvcc.Event) {
	for w := range s.families[r].watchers {
		w.notice(e)
	}
}
