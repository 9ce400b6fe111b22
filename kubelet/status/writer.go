// Package status is the one writer of Pod status to the API server.
package status

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/kubelet/metrics"
)

// Writer publishes the newest status of each Pod: at most one request a Pod at
// a time, several Pods at once, statuses in between coalesced, failures tried
// again with back-off. Nothing is delayed on purpose.
type Writer struct {
	client  kubernetes.Interface
	workers int
	metrics *metrics.Set // optional
	queue   workqueue.TypedRateLimitingInterface[types.UID]

	mu   sync.Mutex
	pods map[types.UID]*entry
}

// entry is what is to be published about a Pod.
type entry struct {
	pod    *v1.Pod // as the API had it when the status was computed
	want   v1.PodStatus
	final  bool
	wrote  *v1.PodStatus // the last status written, nil before
	erased bool          // left the API
	sets   uint64        // how often want was set
	since  time.Time     // when want was first set that is not written; zero: it is
	tried  uint64        // what sets was when the last try began that has ended
	end    chan struct{} // closed when a try ends; nil if nobody waits
}

// New makes a Writer with so many requests at once; Run starts it.
// What metrics count is how long that takes; they are optional.
func New(client kubernetes.Interface, workers int, set *metrics.Set) *Writer {
	return &Writer{
		client: client, metrics: set, workers: max(workers, 1), pods: map[types.UID]*entry{},
		queue: workqueue.NewTypedRateLimitingQueue(workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](50*time.Millisecond, 30*time.Second)),
	}
}

// Set publishes a status of the Pod, which must not be changed afterwards.
// final: nothing of the Pod is held any more, so that, if it is being deleted,
// it leaves the API after its status is written.
func (w *Writer) Set(pod *v1.Pod, status v1.PodStatus, final bool) {
	w.mu.Lock()
	e := w.pods[pod.UID]
	if e == nil {
		e = &entry{}
		w.pods[pod.UID] = e
	}
	e.pod, e.want, e.final = pod, status, final
	e.sets++
	if e.since.IsZero() {
		e.since = time.Now()
	}
	w.mu.Unlock()
	w.queue.Add(pod.UID)
}

// Tried returns when what Set last said of the Pod is written, or a try to write it has failed.
func (w *Writer) Tried(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	want := uint64(0)
	if e != nil {
		want = e.sets
	}
	for e != nil && !e.erased && e.tried < want {
		if e.end == nil {
			e.end = make(chan struct{})
		}
		end := e.end
		w.mu.Unlock()
		select {
		case <-end:
		case <-ctx.Done():
			return ctx.Err()
		}
		w.mu.Lock()
		e = w.pods[uid]
	}
	w.mu.Unlock()
	return nil
}

// ended notes that a try has ended that began when want had been set so often.
func (e *entry) ended(sets uint64) {
	e.tried = sets
	if e.end != nil {
		close(e.end)
		e.end = nil
	}
}

// Observe takes a Pod as the API has it now. While a node is out of reach its Pods
// are marked as not ready by somebody else; what was written here before is then
// written again, as a change of now.
func (w *Writer) Observe(pod *v1.Pod) {
	w.mu.Lock()
	defer w.mu.Unlock()
	e := w.pods[pod.UID]
	if e == nil || e.erased || e.wrote == nil {
		return
	}
	have, wrote := find(pod.Status.Conditions, v1.PodReady), find(e.wrote.Conditions, v1.PodReady)
	// An older object than what was written comes late, and says nothing new.
	if have == nil || wrote == nil || have.Status == wrote.Status || !have.LastTransitionTime.After(wrote.LastTransitionTime.Time) {
		return
	}
	want := e.want.DeepCopy()
	if c := find(want.Conditions, v1.PodReady); c != nil && c.Status != have.Status {
		c.LastTransitionTime = metav1.Now()
	}
	e.pod, e.want, e.wrote = pod, *want, &pod.Status
	w.queue.Add(pod.UID)
}

// Forget drops what is known of a Pod that left the API.
func (w *Writer) Forget(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.pods[uid]; e != nil {
		e.ended(e.sets)
		delete(w.pods, uid)
	}
}

// Run publishes until ctx ends.
func (w *Writer) Run(ctx context.Context) {
	var wg sync.WaitGroup
	for range w.workers {
		wg.Go(func() {
			for w.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	w.queue.ShutDown()
	wg.Wait()
}

func (w *Writer) next(ctx context.Context) bool {
	uid, quit := w.queue.Get()
	if quit {
		return false
	}
	defer w.queue.Done(uid)
	if err := w.write(ctx, uid); err != nil {
		if ctx.Err() == nil {
			klog.FromContext(ctx).Info("Writing a pod's status failed; trying again", "podUID", uid, "err", err)
			w.queue.AddRateLimited(uid)
		}
		return true
	}
	w.queue.Forget(uid)
	return true
}

// write brings one Pod up to date: a patch if anything differs, then, if the
// status is final and the Pod is being deleted, the deletion.
func (w *Writer) write(ctx context.Context, uid types.UID) error {
	w.mu.Lock()
	e := w.pods[uid]
	if e == nil || e.erased {
		w.mu.Unlock()
		return nil
	}
	pod, want, final, sets, since := e.pod, e.want, e.final, e.sets, e.since
	e.since = time.Time{}
	base := pod.Status
	if e.wrote != nil {
		base = *e.wrote
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		e.ended(sets)
		w.mu.Unlock()
	}()

	if terminal(pod.Status.Phase) && pod.Status.Phase != want.Phase {
		klog.FromContext(ctx).Error(nil, "Refusing to bring a pod back from its end", "pod", klog.KObj(pod), "phase", pod.Status.Phase, "wanted", want.Phase)
		return nil
	}
	patch, err := diff(pod, &base, &want)
	if err != nil {
		return err
	}
	if patch != nil {
		_, err := w.client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
		switch {
		case apierrors.IsNotFound(err), apierrors.IsConflict(err) && w.replaced(ctx, pod):
			w.erase(uid)
			return nil
		case err != nil:
			w.mu.Lock()
			e.since = since
			w.mu.Unlock()
			return fmt.Errorf("patch status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
		}
		w.mu.Lock()
		e.wrote = &want
		w.mu.Unlock()
		if !since.IsZero() {
			w.metrics.StatusWritten(time.Since(since))
		}
	}
	if !final || pod.DeletionTimestamp == nil {
		return nil
	}
	zero := int64(0)
	err = w.client.CoreV1().Pods(pod.Namespace).Delete(ctx, pod.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &uid},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	// With finalizers the object stays a while: its end is not repeated.
	w.erase(uid)
	return nil
}

// replaced says whether the Pod of this name is another one by now.
func (w *Writer) replaced(ctx context.Context, pod *v1.Pod) bool {
	now, err := w.client.CoreV1().Pods(pod.Namespace).Get(ctx, pod.Name, metav1.GetOptions{})
	return apierrors.IsNotFound(err) || (err == nil && now.UID != pod.UID)
}

func (w *Writer) erase(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if e := w.pods[uid]; e != nil {
		e.erased = true
	}
}

func terminal(p v1.PodPhase) bool { return p == v1.PodSucceeded || p == v1.PodFailed }

// diff is the patch that makes base want, nil if they say the same. It holds
// the UID, so that it never lands on another Pod of the same name, and only
// conditions that want changes, so that it never undoes another's.
func diff(pod *v1.Pod, base, want *v1.PodStatus) ([]byte, error) {
	from, to := *base, *want
	from.Conditions, to.Conditions = nil, nil
	for _, c := range want.Conditions {
		old := find(base.Conditions, c.Type)
		if old != nil && !ours(c.Type) {
			continue
		}
		to.Conditions = append(to.Conditions, c)
		if old != nil {
			from.Conditions = append(from.Conditions, *old)
		}
	}
	for _, c := range base.Conditions { // ours that are over
		if ours(c.Type) && find(want.Conditions, c.Type) == nil {
			from.Conditions = append(from.Conditions, c)
		}
	}
	a, err := json.Marshal(v1.Pod{Status: from})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	b, err := json.Marshal(v1.Pod{Status: to})
	if err != nil {
		return nil, fmt.Errorf("encode status: %w", err)
	}
	if bytes.Equal(a, b) {
		return nil, nil
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, v1.Pod{})
	if err != nil {
		return nil, fmt.Errorf("make status patch: %w", err)
	}
	if string(patch) == "{}" {
		return nil, nil
	}
	var body map[string]any
	if err := json.Unmarshal(patch, &body); err != nil {
		return nil, fmt.Errorf("make status patch: %w", err)
	}
	body["metadata"] = map[string]any{"uid": pod.UID}
	return json.Marshal(body)
}

func find(list []v1.PodCondition, t v1.PodConditionType) *v1.PodCondition {
	for i := range list {
		if list[i].Type == t {
			return &list[i]
		}
	}
	return nil
}

// ours says whether the node alone writes conditions of a type.
func ours(t v1.PodConditionType) bool {
	switch t {
	case v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled,
		v1.PodResizePending, v1.PodResizeInProgress, v1.AllContainersRestarting:
		return true
	}
	return false
}
