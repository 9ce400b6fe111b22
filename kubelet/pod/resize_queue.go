package pod

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/allocation"
)

// resizeQueue are the Pods whose spec asks for other resources than they have.
// They are looked at together, in allocation's order, when one joins and when
// there may be more room; never by the clock.
type resizeQueue struct {
	mu   sync.Mutex
	want map[types.UID]bool
	wake chan struct{} // capacity 1
}

func newResizeQueue() *resizeQueue {
	return &resizeQueue{want: map[types.UID]bool{}, wake: make(chan struct{}, 1)}
}

func (q *resizeQueue) add(uid types.UID) {
	q.keep(uid)
	q.poke()
}

// keep lets a Pod wait until something else wakes the queue.
func (q *resizeQueue) keep(uid types.UID) {
	q.mu.Lock()
	q.want[uid] = true
	q.mu.Unlock()
}

// take empties the queue: who joins later is not forgotten.
func (q *resizeQueue) take() []types.UID {
	q.mu.Lock()
	defer q.mu.Unlock()
	all := slices.Collect(maps.Keys(q.want))
	clear(q.want)
	return all
}

func (q *resizeQueue) poke() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// RoomChanged tells that Pods that wait for room may find it now.
func (m *Manager) RoomChanged() { m.resizes.poke() }

// runResizes grants resizes until ctx ends.
func (m *Manager) runResizes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.resizes.wake:
		}
		m.grantResizes(ctx)
	}
}

// grantResizes looks at all that wait, once. Admissions wait meanwhile, so that
// no room is given twice.
func (m *Manager) grantResizes(ctx context.Context) {
	m.admission.Lock()
	defer m.admission.Unlock()
	var requests []allocation.Request
	workers := map[types.UID]*worker{}
	for _, uid := range m.resizes.take() {
		w := m.worker(uid)
		if w == nil {
			continue
		}
		if r, ok := w.resizeRequest(); ok {
			workers[uid] = w
			requests = append(requests, r)
		}
	}
	allocation.Sort(requests)
	// All are judged by the same room: what becomes free meanwhile would go to whoever is looked at next, rather than to who
	// comes first. It wakes the queue again.
	holders := m.holders()
	for _, r := range requests {
		m.grantResize(ctx, workers[r.Pod.UID], r, holders)
	}
}

// resizeRequest is what the Pod asks for; false if it has that, or is not to be
// resized any more.
func (w *worker) resizeRequest() (allocation.Request, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.allocated == nil || !w.holds || w.deleted || w.pod.DeletionTimestamp != nil || w.evicted != nil {
		return allocation.Request{}, false
	}
	if w.allocated.Allocated.Equal(allocation.Of(w.pod)) { // taken back, or granted
		return allocation.Request{}, false
	}
	r := allocation.Request{Pod: w.pod, Allocated: w.allocated.Allocated}
	if w.pending != nil {
		r.Since = w.pending.Since
	}
	return r, true
}

// grantResize gives the Pod what it asks for, if that fits beside the holders, among
// which it is noted then.
func (m *Manager) grantResize(ctx context.Context, w *worker, r allocation.Request, holders map[types.UID]*v1.Pod) {
	refusal := m.cfg.Admitter.Resize(ctx, r.Pod, allBut(holders, w.uid))
	if refusal == nil {
		err := w.record(func(a *allocation.Record) {
			a.Allocated, a.Generation = allocation.Of(r.Pod), r.Pod.Generation
		}, true)
		if err == nil {
			w.update(func() {
				w.pending = nil
				holders[w.uid] = w.holder()
			})
			m.cfg.Volumes.Changed(w.given(r.Pod))
			return
		}
		m.log(ctx, r.Pod).Error(err, "Recording what a pod is resized to failed; it stays as it is until there is a change on the node")
		refusal = &Refusal{Reason: v1.PodReasonDeferred, Message: err.Error()}
	}
	if refusal.Reason == v1.PodReasonDeferred {
		m.resizes.keep(w.uid)
	}
	w.putOff(r.Pod, *refusal, m.cfg.Clock.Now())
}

// putOff remembers why the Pod does not get what it asks for, and says so if
// that is news.
func (w *worker) putOff(pod *v1.Pod, refusal Refusal, now time.Time) {
	next := &Pending{Refusal: refusal, Generation: pod.Generation, Since: now}
	news := true
	w.update(func() {
		if news = w.pod.Generation == pod.Generation; !news {
			return // it asks for something else by now, and that is looked at next
		}
		if old := w.pending; old != nil {
			next.Since = old.Since
			news = (old.Reason != refusal.Reason || old.Message != refusal.Message) || old.Generation != pod.Generation
		}
		w.pending = next
	})
	if !news {
		return
	}
	reason := "ResizeDeferred"
	if refusal.Reason == v1.PodReasonInfeasible {
		reason = "ResizeInfeasible"
	}
	w.m.note(pod, Note{Type: v1.EventTypeWarning, Reason: reason,
		Message: allocation.Message("Pod resize "+refusal.Reason, pod, pod.Generation, refusal.Message)})
}

// noticed are the generations of a Pod's spec and of what it has that were
// compared last.
type noticed struct {
	looked     bool
	spec, have int64
}

// noticeResize asks for what the spec says, where that is not what the Pod has,
// once for each state of the two. A request that is taken back waits no more.
func (w *worker) noticeResize(pod *v1.Pod) {
	have := w.allocation()
	if have == nil || w.state >= Stopping {
		return
	}
	now := noticed{true, pod.Generation, have.Generation}
	if w.noticed == now {
		return
	}
	w.noticed = now
	if have.Allocated.Equal(allocation.Of(pod)) {
		w.mu.Lock()
		w.pending = nil
		w.mu.Unlock()
		return
	}
	w.m.resizes.add(w.uid)
}
