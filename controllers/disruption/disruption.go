// Package disruption keeps the status of PodDisruptionBudgets: how many Pods may be evicted just now. The eviction
// subresource spends what it grants; what was granted and does not happen is taken back after a time.
package disruption

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
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
	loop      *engine.Loop
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	budgets, podInformer := d.Informers.Policy().V1().PodDisruptionBudgets(), d.Informers.Core().V1().Pods()
	c := &controller{client: d.Client, recorder: d.Recorder, budgets: budgets.Lister(), pods: podInformer.Lister(),
		informers: d.Informers, loop: &engine.Loop{Name: Name, Workers: 2}}
	c.loop.Sync = c.sync
	mine, err := budgets.Informer().AddEventHandler(engine.OnSet(engine.Object(c.loop)))
	if err != nil {
		return nil, fmt.Errorf("watch budgets: %w", err)
	}
	seen, err := podInformer.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: c.wake, DeleteFunc: c.wake,
		UpdateFunc: func(old, now any) {
			c.wake(old) // it may have had other labels
			c.wake(now)
		}})
	if err != nil {
		return nil, fmt.Errorf("watch pods: %w", err)
	}
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
	return c.loop, nil
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
	now := time.Now()
	expected, desired, reckonErr := c.reckon(b, list)
	next := b.DeepCopy()
	again := fill(next, list, expected, desired, reckonErr, now)
	if reckonErr != nil {
		c.recorder.Event(b, corev1.EventTypeWarning, "CalculateExpectedPodCountFailed", "Failed to calculate the number of expected pods: "+reckonErr.Error())
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

// reckon returns how many Pods there are to be, and how many of them healthy at least.
func (c *controller) reckon(b *policyv1.PodDisruptionBudget, list []*corev1.Pod) (expected, desired int, err error) {
	least, most := b.Spec.MinAvailable, b.Spec.MaxUnavailable
	if least != nil && least.Type == intstr.Int {
		return len(list), least.IntValue(), nil
	}
	if expected, err = c.expected(list); err != nil {
		return 0, 0, err
	}
	switch {
	case most != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(most, expected, true)
		if err != nil {
			return 0, 0, fmt.Errorf("read maxUnavailable: %w", err)
		}
		return expected, max(0, expected-n), nil
	case least != nil:
		n, err := intstr.GetScaledValueFromIntOrPercent(least, expected, true)
		if err != nil {
			return 0, 0, fmt.Errorf("read minAvailable: %w", err)
		}
		return expected, n, nil
	}
	return expected, 0, nil
}

// expected adds up the sizes of the Pods' owners; Pods that none owns count nothing.
func (c *controller) expected(list []*corev1.Pod) (int, error) {
	seen, total := map[types.UID]bool{}, 0
	for _, p := range list {
		ref := metav1.GetControllerOfNoCopy(p)
		if ref == nil || seen[ref.UID] {
			continue
		}
		seen[ref.UID] = true
		owner, n, err := c.scale(p.Namespace, ref)
		if err != nil {
			return 0, fmt.Errorf("find the size of %s %s, owner of pod %s: %w", ref.Kind, ref.Name, p.Name, err)
		}
		if !seen[owner] || owner == ref.UID {
			total += n
		}
		seen[owner] = true
	}
	return total, nil
}

// scale finds the size of a Pod's controller, or of the Deployment of its ReplicaSet.
func (c *controller) scale(namespace string, ref *metav1.OwnerReference) (types.UID, int, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return "", 0, err
	}
	size := func(n *int32) int {
		if n == nil {
			return 1
		}
		return int(*n)
	}
	switch (schema.GroupKind{Group: gv.Group, Kind: ref.Kind}) {
	case schema.GroupKind{Group: "apps", Kind: "ReplicaSet"}:
		rs, err := c.informers.Apps().V1().ReplicaSets().Lister().ReplicaSets(namespace).Get(ref.Name)
		if err != nil {
			return "", 0, err
		}
		if parent := metav1.GetControllerOfNoCopy(rs); parent != nil && parent.Kind == "Deployment" {
			d, err := c.informers.Apps().V1().Deployments().Lister().Deployments(namespace).Get(parent.Name)
			if err != nil {
				return "", 0, err
			}
			return d.UID, size(d.Spec.Replicas), nil
		}
		return rs.UID, size(rs.Spec.Replicas), nil
	case schema.GroupKind{Group: "apps", Kind: "StatefulSet"}:
		set, err := c.informers.Apps().V1().StatefulSets().Lister().StatefulSets(namespace).Get(ref.Name)
		if err != nil {
			return "", 0, err
		}
		return set.UID, size(set.Spec.Replicas), nil
	case schema.GroupKind{Kind: "ReplicationController"}:
		rc, err := c.informers.Core().V1().ReplicationControllers().Lister().ReplicationControllers(namespace).Get(ref.Name)
		if err != nil {
			return "", 0, err
		}
		return rc.UID, size(rc.Spec.Replicas), nil
	}
	return "", 0, fmt.Errorf("%s does not implement the scale subresource", ref.Kind)
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
