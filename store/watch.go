package store

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/features"
	"k8s.io/apiserver/pkg/storage"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	utilflowcontrol "k8s.io/apiserver/pkg/util/flowcontrol"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/store/mvcc"
)

const (
	// resultBuffer is how many events a watcher's consumer may be behind before the watcher waits for it.
	resultBuffer = 16
	// readEvents is how many events a watcher takes from the log at a time.
	readEvents = 64
)

// watcher is one watch. It has no queue of events: it reads the log from where it is, as fast as its consumer takes
// them, and nobody waits for it. A watcher that is so slow that the log has moved past it ends with an error that makes
// its client list again.
type watcher struct {
	resource *Resource
	ctx      context.Context
	cancel   context.CancelFunc
	// coder is the one at the start of the watch.
	coder *coder
	// key is a prefix if recursive.
	key       string
	recursive bool
	pred      storage.SelectionPredicate
	// all says that pred matches everything.
	all bool
	// progress says that the watch asked for bookmarks on request.
	progress bool

	result chan watch.Event
	wake   chan struct{}
	// bookmarkDue is set where a bookmark should be sent when the watcher has caught up.
	bookmarkDue atomic.Bool

	// pos is the revision up to which the watcher has taken events from the log; behind says that there are events for
	// it after pos. Both are guarded by Store.mu: dispatch changes them under the write lock, the watcher itself under
	// the read lock.
	pos    int64
	behind bool
}

// start says how a watch begins.
type start struct {
	// view holds the objects to begin with, nil for none; rev is the revision after which events follow.
	view *mvcc.View
	rev  int64
	// endBookmark asks for the bookmark that ends the initial objects.
	endBookmark bool
	err         error
}

// Watch implements storage.Interface. Objects in the events belong to the consumer at their first level, metadata
// included; what lies deeper is shared and read-only. opts.RecordTimestamps is for watch caches in front of a store, of
// which there is none.
func (r *Resource) Watch(ctx context.Context, key string, opts storage.ListOptions) (watch.Interface, error) {
	key, err := r.key(key, opts.Recursive)
	if err != nil {
		return nil, err
	}
	rev, err := r.coder.versioner.ParseResourceVersion(opts.ResourceVersion)
	if err != nil {
		return nil, err
	}
	if !utilfeature.DefaultFeatureGate.Enabled(features.WatchList) {
		opts.SendInitialEvents = nil
	}
	w := &watcher{
		resource:  r,
		coder:     r.coder,
		key:       key,
		recursive: opts.Recursive,
		pred:      opts.Predicate,
		all:       opts.Predicate.Empty(),
		progress:  opts.ProgressNotify,
		result:    make(chan watch.Event, resultBuffer),
		wake:      make(chan struct{}, 1),
	}
	w.ctx, w.cancel = context.WithCancel(ctx)
	begin, ok := r.begin(w, int64(rev), opts)
	if !ok {
		w.cancel()
		close(w.result)
		return w, nil
	}
	if !r.own(w) {
		w.cancel()
	}
	if opts.Predicate.AllowWatchBookmarks || opts.ProgressNotify {
		deadline, _ := ctx.Deadline()
		r.store.bookmarks.add(w, deadline)
	}
	go func() {
		defer r.store.done.Done()
		w.run(begin)
	}()
	utilflowcontrol.WatchInitialized(ctx)
	return w, nil
}

// own remembers w for Destroy, and returns false where that has been called.
func (r *Resource) own(w *watcher) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.watchers[w] = struct{}{}
	return !r.destroyed
}

// begin puts w among the watchers of its family and says how it begins, in one instant. The store counts w among what
// it waits for. ok is false where the store is closed, and nothing has been done.
func (r *Resource) begin(w *watcher, rev int64, opts storage.ListOptions) (b start, ok bool) {
	initial := opts.SendInitialEvents == nil && rev == 0 || opts.SendInitialEvents != nil && *opts.SendInitialEvents
	s := r.store
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return b, false
	}
	s.done.Add(1)
	now := s.state.Rev()
	b.rev = rev
	switch {
	case initial:
		if rev > now {
			b.err = storage.NewTooLargeResourceVersionError(uint64(rev), uint64(now), tooLargeRetrySeconds)
		}
		b.view, b.rev = s.state.View(), now
		b.endBookmark = opts.SendInitialEvents != nil && opts.Predicate.AllowWatchBookmarks
	case rev == 0:
		b.rev = now
	case rev < r.Floor():
		b.err = watchTooOld(rev, r.Floor())
	case rev > now:
		b.err = watchAhead(rev, now)
	}
	w.pos = b.rev
	if b.err == nil {
		w.behind = r.Any(b.rev, func(e *mvcc.Event) bool { return w.covers(e.Key) })
	}
	if !w.behind {
		w.pos = max(w.pos, now)
	}
	r.family.watchers[w] = struct{}{}
	if !r.coder.partial {
		r.watched.Add(1)
	}
	return b, true
}

// leave takes w out of everything it is in. The last watcher of a family drops the decoded objects.
func (w *watcher) leave() {
	r, s := w.resource, w.resource.store
	s.bookmarks.remove(w)
	r.mu.Lock()
	delete(r.watchers, w)
	r.mu.Unlock()
	s.mu.Lock()
	delete(r.family.watchers, w)
	last := !w.coder.partial && r.watched.Add(-1) == 0
	s.mu.Unlock()
	if last {
		prefix := r.Prefix
		s.present().Ascend(prefix, prefix, func(v *mvcc.Value) bool {
			v.SetMemo(nil)
			return r.watched.Load() == 0
		})
	}
}

// Stop implements watch.Interface.
func (w *watcher) Stop() { w.cancel() }

// ResultChan implements watch.Interface.
func (w *watcher) ResultChan() <-chan watch.Event { return w.result }

// covers says whether key is one that is watched.
func (w *watcher) covers(key string) bool {
	if w.recursive {
		return strings.HasPrefix(key, w.key)
	}
	return key == w.key
}

// notice tells w about an event. It is called under the write lock of Store.mu. A watcher that has nothing to read moves
// along with the events that do not concern it, so that these are not read later and do not make it fall off the log.
func (w *watcher) notice(e mvcc.Event) {
	switch {
	case w.behind:
	case !w.covers(e.Key):
		w.pos = max(w.pos, e.Rev)
	default:
		w.behind = true
		w.rouse()
	}
}

// bookmark asks w for a bookmark.
func (w *watcher) bookmark() {
	w.bookmarkDue.Store(true)
	w.rouse()
}

func (w *watcher) rouse() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

// read takes the next events from the log. end says that there are no more, as of revision rev.
func (w *watcher) read(buf []mvcc.Event) (events []mvcc.Event, end bool, rev int64, err error) {
	s, f := w.resource.store, w.resource.family
	s.mu.RLock()
	defer s.mu.RUnlock()
	rev = s.state.Rev()
	if !w.behind {
		return nil, true, rev, nil
	}
	events, end, err = f.Since(w.pos, readEvents, buf)
	if err != nil {
		return nil, false, 0, watchTooOld(w.pos, f.Floor())
	}
	if n := len(events); n > 0 {
		w.pos = events[n-1].Rev
	}
	w.behind = !end
	return events, end, rev, nil
}

func (w *watcher) run(begin start) {
	defer close(w.result)
	defer w.leave()
	defer w.cancel()
	err := begin.err
	if err == nil {
		err = w.initial(begin)
	}
	if err == nil {
		err = w.follow(begin.rev)
	}
	if err != nil && !errors.Is(err, context.Canceled) {
		w.fail(err)
	}
}

// initial sends the objects that the watch begins with.
func (w *watcher) initial(begin start) error {
	if begin.view == nil {
		return nil
	}
	var err error
	send := func(v *mvcc.Value) bool {
		var event *watch.Event
		if event, err = w.event(mvcc.Event{Rev: v.Mod, Key: v.Key, Cur: v}); event != nil {
			err = w.send(*event)
		}
		return err == nil
	}
	if w.recursive {
		begin.view.Ascend(w.key, w.key, send)
	} else if v := begin.view.Get(w.key); v != nil {
		send(v)
	}
	if err == nil && begin.endBookmark {
		err = w.sendBookmark(begin.rev, true)
	}
	return err
}

// follow sends events as they happen, until the watch ends. sent is the revision that the consumer knows of.
func (w *watcher) follow(sent int64) error {
	buf := make([]mvcc.Event, 0, 4)
	for {
		events, end, rev, err := w.read(buf[:0])
		if err != nil {
			return err
		}
		for i := range events {
			event, err := w.event(events[i])
			if err != nil {
				return err
			}
			if event == nil {
				continue
			}
			if err := w.send(*event); err != nil {
				return err
			}
		}
		clear(events)
		if !end {
			buf = events
			continue
		}
		// A watch from a revision that is yet to come has nothing to say before.
		if rev >= sent && w.bookmarkDue.Swap(false) {
			if err := w.sendBookmark(rev, false); err != nil {
				return err
			}
			continue
		}
		select {
		case <-w.wake:
		case <-w.ctx.Done():
			return context.Canceled
		}
	}
}

// send gives the consumer an event, and waits until it has room for it.
func (w *watcher) send(e watch.Event) error {
	select {
	case w.result <- e:
		return nil
	case <-w.ctx.Done():
		return context.Canceled
	}
}

// sendBookmark tells the consumer that it has seen everything up to revision rev.
func (w *watcher) sendBookmark(rev int64, initialEnd bool) error {
	obj := w.coder.newFunc()
	if err := w.coder.versioner.UpdateObject(obj, uint64(rev)); err != nil {
		return fmt.Errorf("failed to propagate object resource version: %w", err)
	}
	if initialEnd {
		if err := storage.AnnotateInitialEventsEndBookmark(obj); err != nil {
			return fmt.Errorf("mark the end of the initial events: %w", err)
		}
	}
	return w.send(watch.Event{Type: watch.Bookmark, Object: obj})
}

// fail ends the watch with an error event.
func (w *watcher) fail(err error) {
	var corrupt *corruptDeletedError
	var known apierrors.APIStatus
	var status metav1.Status
	switch {
	case errors.As(err, &corrupt):
		status = metav1.Status{Status: metav1.StatusFailure, Code: http.StatusInternalServerError,
			Reason: metav1.StatusReasonStoreReadError, Message: corrupt.Error()}
	case errors.As(err, &known):
		status = known.Status()
	default:
		status = apierrors.NewInternalError(err).Status()
	}
	klog.FromContext(w.ctx).V(2).Info("A watch ended with an error", "key", w.key, "err", err)
	// The error itself is not worth waiting for without end: the consumer may have gone.
	_ = w.send(watch.Event{Type: watch.Error, Object: &status})
}

// corruptDeletedError says that an object which cannot be read has been deleted.
type corruptDeletedError struct{ err error }

func (e *corruptDeletedError) Error() string {
	return fmt.Sprintf("saw a DELETED event, but object data is corrupt - %v", e.err)
}

func (e *corruptDeletedError) Unwrap() error { return e.err }

// event turns a change into what the consumer sees of it: an object that comes to match the predicate is added, one
// that ceases to is deleted. It returns nil where there is nothing to see.
func (w *watcher) event(e mvcc.Event) (*watch.Event, error) {
	if !w.covers(e.Key) {
		return nil, nil
	}
	var cur, prev runtime.Object
	var err error
	if e.Cur != nil {
		if cur, err = w.object(e.Cur); err != nil {
			return nil, err
		}
	}
	// Where everything matches, the object before is only looked at when it is all there is.
	if e.Prev != nil && (e.Cur == nil || !w.all) {
		if prev, err = w.object(e.Prev); err != nil {
			if e.Cur == nil && isCorrupt(err) {
				err = &corruptDeletedError{err}
			}
			return nil, err
		}
	}
	matches := cur != nil && w.matches(cur)
	matched := prev != nil && w.matches(prev) || e.Prev != nil && prev == nil
	switch {
	case matches && matched:
		return &watch.Event{Type: watch.Modified, Object: loan(cur)}, nil
	case matches:
		return &watch.Event{Type: watch.Added, Object: loan(cur)}, nil
	case matched:
		// The object as it was, at the revision at which it went.
		gone := loan(prev)
		if err := w.coder.versioner.UpdateObject(gone, uint64(e.Rev)); err != nil {
			return nil, fmt.Errorf("failed to propagate object resource version: %w", err)
		}
		return &watch.Event{Type: watch.Deleted, Object: gone}, nil
	}
	return nil, nil
}

func (w *watcher) object(v *mvcc.Value) (runtime.Object, error) {
	obj, unsealErr, decodeErr := w.coder.object(w.ctx, v, true)
	return obj, errors.Join(unsealErr, decodeErr)
}

func (w *watcher) matches(obj runtime.Object) bool {
	if w.all {
		return true
	}
	ok, err := w.pred.Matches(obj)
	return err == nil && ok
}

// beforeDeadline is how long before a watch times out it gets a last bookmark.
const beforeDeadline = 2 * time.Second
