package scheduler

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
)

// preemption is a plan that is to be carried out. Without a node, the Pod's own promise is taken back.
type preemption struct {
	node    string
	victims []*framework.Pod
	// demoted are Pods of lower priority to which the node was promised before.
	demoted []*framework.Pod
}

// preempt looks for Pods to preempt for one that fits nowhere, and promises it their node. It returns what the Pod's event
// is to say, which has what was done about claims in it, and what is to be done, nil for nothing. The caller holds mu.
func (s *Scheduler) preempt(pod *framework.Pod, d cycle.Decision, claims string) (message string, p *preemption) {
	if d.Nodes == 0 {
		return d.Short, nil
	}
	began, victims, verdict := s.cfg.Clock.Now(), 0, framework.Busy
	defer func() {
		s.cfg.Metrics.Preempting(victims)
		s.timed(framework.PostFilter, began, verdict)
	}()
	if ok, why := cycle.Eligible(pod, s.cluster.Promised(pod.UID), d.Busy); !ok {
		return d.Short + " " + claims + ", preemption: " + why, nil
	}
	budgets, err := s.budgets.List(labels.Everything())
	if err != nil {
		budgets = []*policyv1.PodDisruptionBudget{} // a lister of a store in memory does not fail
	}
	plan, why := s.cycle.Preempt(pod, s.cluster.View(), d, budgets)
	if plan == nil {
		if s.cluster.Promised(pod.UID) != nil {
			s.cluster.TakeBack(pod.UID)
			p = &preemption{}
		}
		return d.Short + " " + claims + ", preemption: " + why, p
	}
	victims, verdict = len(plan.Victims), framework.Fits
	p = &preemption{node: plan.Node.Node.Name, victims: plan.Victims}
	for _, other := range plan.Node.Promised {
		if other.Priority() < pod.Priority() {
			p.demoted = append(p.demoted, other)
		}
	}
	for _, other := range p.demoted {
		s.cluster.TakeBack(other.UID)
	}
	s.cluster.Promise(pod, p.node)
	return d.Short, p
}

// carryOut does what was planned for a Pod: it is told its node, and the victims are deleted with their own grace. If that fails, the
// Pod is tried again.
func (s *Scheduler) carryOut(ctx context.Context, pod *framework.Pod, p *preemption) {
	err := s.nominate(ctx, pod, p.node)
	for _, other := range p.demoted {
		if failed := s.nominate(ctx, other, ""); failed != nil {
			klog.FromContext(ctx).Error(failed, "Take back what a Pod was promised failed", "pod", klog.KObj(other.Pod))
		}
	}
	for _, victim := range p.victims {
		if victim.DeletionTimestamp == nil { // else it is going already
			err = errors.Join(err, s.evict(ctx, pod, victim, p.node))
		}
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	klog.FromContext(ctx).Error(err, "Preempt Pods failed", "for", klog.KObj(pod.Pod), "node", p.node)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.Retry(pod.UID)
	s.signal()
}

// evict deletes a victim, which has had its reason written before. One that has gone or changed hands is no error.
func (s *Scheduler) evict(ctx context.Context, pod, victim *framework.Pod, node string) error {
	err := s.patchStatus(ctx, victim, map[string]any{"conditions": []corev1.PodCondition{{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: victim.Generation,
		Reason: corev1.PodReasonPreemptionByScheduler, LastTransitionTime: metav1.NewTime(s.cfg.Clock.Now()),
		Message: pod.Spec.SchedulerName + ": preempting to accommodate a higher priority pod",
	}}})
	if err == nil {
		err = s.cfg.Client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
	}
	if gone(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("evict pod %s/%s: %w", victim.Namespace, victim.Name, err)
	}
	s.cfg.Recorder.Eventf(victim.Pod, pod.Pod, corev1.EventTypeNormal, "Preempted", "Preempting",
		"Preempted by pod %v on node %v", pod.UID, node)
	return nil
}

// gone says whether a write failed because the Pod is gone or another one has its name.
func gone(err error) bool { return apierrors.IsNotFound(err) || apierrors.IsConflict(err) }

// nominate writes the node that is kept for the Pod; an empty name takes it back. A Pod that has gone is no error.
func (s *Scheduler) nominate(ctx context.Context, pod *framework.Pod, node string) error {
	var value any = node
	if node == "" {
		value = nil
	}
	if err := s.patchStatus(ctx, pod, map[string]any{"nominatedNodeName": value}); err != nil && !gone(err) {
		return err
	}
	return nil
}

// patchStatus writes what is given of the Pod's status, if it is still the same Pod.
func (s *Scheduler) patchStatus(ctx context.Context, pod *framework.Pod, status map[string]any) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err != nil {
		return fmt.Errorf("encode status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	if _, err = s.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status"); err != nil {
		return fmt.Errorf("write status of pod %s/%s: %w", pod.Namespace, pod.Name, err)
	}
	return nil
}
