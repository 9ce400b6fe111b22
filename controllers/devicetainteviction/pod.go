package devicetainteviction

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/pods"
)

// What the events and the condition of a Pod say; upstream's.
const (
	eventReason      = "DeviceTaintManagerEviction"
	conditionReason  = "DeletionByDeviceTaintManager"
	conditionMessage = "Device Taint manager: deleting due to NoExecute taint"
)

// syncPod deletes a Pod whose time is over, and comes back for one that has some left.
func (c *controller) syncPod(ctx context.Context, name cache.ObjectName) error {
	pod, err := c.pods.Pods(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		c.mark(name, mark{})
		return nil
	}
	if err != nil {
		return fmt.Errorf("read Pod %s: %w", name, err)
	}
	before := c.marked(name)
	if before.uid != pod.UID {
		before = mark{}
	}
	if before.deleted || pod.DeletionTimestamp != nil {
		return nil // its end brings it back
	}
	d, err := c.dueOf(pod)
	switch {
	case err != nil:
		return err
	case !d.evict:
		c.mark(name, mark{})
		if before.uid != "" {
			c.recorder.Event(pod, corev1.EventTypeNormal, eventReason, "Cancelling deletion")
		}
		return nil
	}
	if wait := time.Until(d.at); wait > 0 {
		c.mark(name, mark{uid: pod.UID})
		c.tellRules(d)
		return &engine.Retry{After: wait, Why: "its claims tolerate the taints of its devices until then"}
	}
	c.recorder.Event(pod, corev1.EventTypeNormal, eventReason, "Marking for deletion")
	deleted, err := pods.Disrupt(ctx, c.client, pod, conditionReason, conditionMessage)
	if err != nil {
		return err
	}
	c.mark(name, mark{uid: pod.UID, deleted: true})
	if deleted {
		observe(time.Since(d.at))
		c.count(d)
	}
	c.tellRules(d)
	return nil
}

// dueOf says when the Pod has to go. One that is not on a node yet, or over, never has to.
func (c *controller) dueOf(pod *corev1.Pod) (due, error) {
	var d due
	if pod.Spec.NodeName == "" || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return d, nil
	}
	rules, err := c.rules.List(labels.Everything())
	if err != nil {
		return d, fmt.Errorf("list DeviceTaintRules: %w", err)
	}
	for name, own := range resourceclaim.PodClaims(pod) {
		claim, err := c.claims.ResourceClaims(pod.Namespace).Get(name)
		if apierrors.IsNotFound(err) {
			continue
		}
		if err != nil {
			return d, fmt.Errorf("read ResourceClaim %s/%s: %w", pod.Namespace, name, err)
		}
		if uses(pod, claim, own) {
			d.merge(dueOf(claim, c.pool, rules))
		}
	}
	return d, nil
}

// uses says whether the Pod has devices of the claim that it names; own says that the claim must have been made for it.
func uses(pod *corev1.Pod, claim *resourcev1.ResourceClaim, own bool) bool {
	return claim.Status.Allocation != nil && (!own || resourceclaim.IsForPod(pod, claim, false) == nil) && resourceclaim.IsReservedForPod(pod, claim, false)
}

// pool returns the slices of a pool.
func (c *controller) pool(driver, pool string) []*resourcev1.ResourceSlice {
	list, err := c.sliceIndex.ByIndex(byPool, poolKey(driver, pool))
	if err != nil {
		return nil // an index that was made above does not fail
	}
	out := make([]*resourcev1.ResourceSlice, 0, len(list))
	for _, obj := range list {
		if s, ok := obj.(*resourcev1.ResourceSlice); ok {
			out = append(out, s)
		}
	}
	return out
}

func (c *controller) marked(name cache.ObjectName) mark {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.marks[name]
}

// mark keeps what was decided of a Pod; the zero value forgets it.
func (c *controller) mark(name cache.ObjectName, m mark) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if m.uid == "" {
		delete(c.marks, name)
		return
	}
	c.marks[name] = m
}
