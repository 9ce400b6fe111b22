// Package disruption keeps the status of PodDisruptionBudgets: how many Pods may be evicted just now. The eviction
// subresource spends what it grants; what was granted and does not happen is taken back after a time.
package disruption

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
	"github.com/peapod/peapod/controllers/scale"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "disruption-controller"

// evictionTime is how long an eviction that was granted may take to show as a deletion.
const evictionTime = 2 * time.Minute

type controller struct {
	client    kubernetes.Interface
	recorder  record.EventRecorder
	budgets   policylisters.PodDisruptionBudgetLister
	pods      corelisters.PodLister
	informers informers.SharedInformerFactory
	scales    *scale.Client
	loop      *engine.Loop
	// stale is for Pods that were to be disrupted, and were not.
	stale *engine.Loop
	now   func() time.Time
}

// Run implements engine.Runner.
func (c *controller) Run(ctx context.Context) error {
	var stale sync.WaitGroup
	stale.Go(func() { _ = c.stale.Run(ctx) }) // it ends with ctx only
	defer stale.Wait()
	return c.loop.Run(ctx)
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) { return newAt(d, time.Now) }

func newAt(d engine.Deps, now func() time.Time) (engine.Runner, error) {
	budgets, podInformer := d.Informers.Policy().V1().PodDisruptionBudgets(), d.Informers.Core().V1().Pods()
	c := &controller{client: d.Client, recorder: d.Recorder, budgets: budgets.Lister(), pods: podInformer.Lister(),
		informers: d.Informers, scales: scale.New(d.Client), now: now,
		loop: &engine.Loop{Name: Name, Workers: 2}, stale: &engine.Loop{Name: Name + "-stale"}}
	c.loop.Sync, c.stale.Sync = c.sync, c.calm
	mine, err := budgets.Informer().AddEventHandler(engine.OnSet(engine.Object(c.loop)))
	if err != nil {
		return nil, fmt.Errorf("watch budgets: %w", err)
	}
	seen, err := podInformer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			c.wake(obj)
			c.watch(obj)
		},
		DeleteFunc: c.wake,
		UpdateFunc: func(old, now any) {
			c.wake(old) // it may have had other labels
			c.wake(now)
			c.watch(now)
		}})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
	c.stale.Synced = []cache.DoneChecker{seen.HasSyncedChecker()}
	c.loop.Synced = []cache.DoneChecker{mine.HasSyncedChecker(), seen.HasSyncedChecker()}
	// A change of an owner's size changes what its Pods' budgets expect.
	apps := d.Informers.Apps().V1()
	for _, informer := range []cache.SharedIndexInformer{apps.Deployments().Informer(), apps.ReplicaSets().Informer(),
		apps.StatefulSets().Informer(), d.Informers.Core().V1().ReplicationControllers().Informer()} {
		seen, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{UpdateFunc: func(old, now any) {
			a, errA := meta.Accessor(old)
			b, errB := meta.Accessor(now)
			if errA == nil && errB == nil && a.GetGeneration() != b.GetGeneration() {
				c.namespace(b.GetNamespace(), nil)
			}
		}})
		if err != nil {
			return nil, fmt.Errorf("watch owners: %w", err)
		}
		c.loop.Synced = append(c.loop.Synced, seen.HasSyncedChecker())
	}
	return c, nil
}

// wake queues the budgets of a Pod.
func (c *controller) wake(obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	if p, ok := obj.(*corev1.Pod); ok {
		c.namespace(p.Namespace, labels.Set(p.Labels))
	}
}

// namespace queues the budgets of a namespace, only those that match labels unless they are nil.
func (c *controller) namespace(name string, only labels.Labels) {
	list, err := c.budgets.PodDisruptionBudgets(name).List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, b := range list {
		if s, err := metav1.LabelSelectorAsSelector(b.Spec.Selector); err == nil && (only == nil || s.Matches(only)) {
			c.loop.Add(cache.MetaObjectToName(b))
		}
	}
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	b, err := c.budgets.PodDisruptionBudgets(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read budget: %w", err)
	}
	selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
	if err != nil {
		return fmt.Errorf("read selector: %w", err)
	}
	list, err := c.pods.Pods(b.Namespace).List(selector)
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	if len(list) == 0 {
		c.recorder.Eventf(b, corev1.EventTypeNormal, "NoPods", "No matching pods found")
	}
	now := c.now()
	expected, desired, reckonErr := c.reckon(ctx, b, list)
	next := b.DeepCopy()
	again := fill(next, list, expected, desired, reckonErr, now)
	if reckonErr != nil {
		c.recorder.Event(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: "+reckonErr.Error())
	}
	if reckonErr == nil && !countsPods(b) && slices.ContainsFunc(list, func(p *corev1.Pod) bool { return metav1.GetControllerOfNoCopy(p) == nil }) {
		c.recorder.Eventf(b, corev1.EventTypeWarning, "UnmanagedPods", "Pods selected by this PodDisruptionBudget (selector: %v) were found "+
			"to be unmanaged. As a result, the status of the PDB cannot be calculated correctly, which may result in undefined behavior. "+
			"To account for these pods please set \".spec.minAvailable\" field of the PDB to an integer value.", b.Spec.Selector)
	}
	if !equality.Semantic.DeepEqual(b.Status, next.Status) {
		_, err := c.client.PolicyV1().PodDisruptionBudgets(b.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			return fmt.Errorf("write status: %w", err)
		}
	}
	if reckonErr != nil {
		return reckonErr
	}
	if !again.IsZero() {
		return &engine.Retry{After: again.Sub(now), Why: "an eviction that was granted"}
	}
	return nil
}

// fill puts the numbers into the budget's status. again is when an eviction that was granted and has not happened is to be
// taken back.
func fill(b *policyv1.PodDisruptionBudget, list []*corev1.Pod, expected, desired int, failure error, now time.Time) (again time.Time) {
	st := &b.Status
	granted := map[string]metav1.Time{}
	healthy := 0
	for _, p := range list {
		if at, ok := st.DisruptedPods[p.Name]; ok && p.DeletionTimestamp == nil {
			if end := at.Add(evictionTime); end.After(now) {
				granted[p.Name] = at
				if again.IsZero() || end.Before(again) {
					again = end
				}
				continue
			}
		}
		if p.DeletionTimestamp == nil && pods.Ready(p) != nil {
			healthy++
		}
	}
	st.ObservedGeneration, st.DisruptedPods = b.Generation, granted
	c := metav1.Condition{Type: policyv1.DisruptionAllowedCondition, ObservedGeneration: b.Generation, Status: metav1.ConditionFalse}
	if failure != nil {
		st.DisruptionsAllowed = 0
		c.Reason, c.Message = policyv1.SyncFailedReason, failure.Error()
		meta.SetStatusCondition(&st.Conditions, c)
		return again
	}
	st.CurrentHealthy, st.DesiredHealthy, st.ExpectedPods = int32(healthy), int32(desired), int32(expected)
	st.DisruptionsAllowed = 0
	if expected > 0 {
		st.DisruptionsAllowed = int32(max(0, healthy-desired))
	}
	c.Reason = policyv1.InsufficientPodsReason
	if st.DisruptionsAllowed > 0 {
		c.Status, c.Reason = metav1.ConditionTrue, policyv1.SufficientPodsReason
	}
	meta.SetStatusCondition(&st.Conditions, c)
	return again
}
