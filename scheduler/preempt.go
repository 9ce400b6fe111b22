package scheduler

import (
	"context"
	"encoding/json"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
)

// preemption is a plan that is to be carried out.
type preemption struct {
	node    string
	victims []*framework.Pod
	// demoted are Pods of lower priority to which the node was promised before.
	demoted []*framework.Pod
}

// preempt looks for Pods to preempt for one that fits nowhere, and promises it their node. It returns what the Pod's event
// is to say. The caller holds mu.
func (s *Scheduler) preempt(pod *framework.Pod, d cycle.Decision) (message string, p *preemption) {
	if len(d.Busy) == 0 {
		return d.Message, nil
	}
	if ok, why := cycle.Eligible(pod, s.cluster.Promised(pod.UID)); !ok {
		return d.Short + " preemption: " + why, nil
	}
	budgets, err := s.budgets.List(labels.Everything())
	if err != nil {
		budgets = []*policyv1.PodDisruptionBudget{} // a lister of a store in memory does not fail
	}
	plan := s.cycle.Preempt(pod, s.cluster.View(), d.Busy, budgets)
	if plan == nil || len(plan.Victims) == 0 {
		return d.Message, nil
	}
	p = &preemption{node: plan.Node.Node.Name, victims: plan.Victims}
	for _, other := range plan.Node.Promised {
		if other.Priority() < pod.Priority() {
			p.demoted = append(p.demoted, other)
		}
	}
	for _, other := range p.demoted {
		s.cluster.Promise(other, "")
	}
	s.cluster.Promise(pod, p.node)
	return d.Short, p
}

// evict carries a plan out: the Pod is told its node, and the victims are deleted with their own grace.
func (s *Scheduler) evict(ctx context.Context, pod *framework.Pod, p *preemption) {
	s.nominate(ctx, pod, p.node)
	for _, other := range p.demoted {
		s.nominate(ctx, other, "")
	}
	for _, victim := range p.victims {
		if victim.DeletionTimestamp != nil {
			continue // it is going already
		}
		s.patchStatus(ctx, victim, map[string]any{"conditions": []corev1.PodCondition{{
			Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, ObservedGeneration: victim.Generation,
			Reason: corev1.PodReasonPreemptionByScheduler, LastTransitionTime: metav1.NewTime(s.cfg.Clock.Now()),
			Message: s.cfg.Name + ": preempting to accommodate a higher priority pod",
		}}})
		err := s.cfg.Client.CoreV1().Pods(victim.Namespace).Delete(ctx, victim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(victim.UID))})
		s.logFailure(ctx, err, "Preempt a Pod failed", victim)
		if err == nil {
			s.cfg.Recorder.Eventf(victim.Pod, pod.Pod, corev1.EventTypeNormal, "Preempted", "Preempting",
				"Preempted by pod %v on node %v", pod.UID, p.node)
		}
	}
}

// nominate writes the node that is kept for the Pod; an empty name takes it back.
func (s *Scheduler) nominate(ctx context.Context, pod *framework.Pod, node string) {
	var value any = node
	if node == "" {
		value = nil
	}
	s.patchStatus(ctx, pod, map[string]any{"nominatedNodeName": value})
}

func (s *Scheduler) patchStatus(ctx context.Context, pod *framework.Pod, status map[string]any) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": pod.UID}, "status": status})
	if err == nil {
		_, err = s.cfg.Client.CoreV1().Pods(pod.Namespace).Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	s.logFailure(ctx, err, "Write status of a Pod failed", pod)
}
