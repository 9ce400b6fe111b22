package pod

import (
	"context"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// Pods that have to end for another one get the time that they ask for. If that
// is over by half, and ten seconds at least, the other one starts nevertheless.
const (
	preempting    = "Preempting"
	leastPatience = 10 * time.Second
)

// preempt ends Pods so that p has room, and returns when they hold nothing any
// more, or were waited for long enough. An error is the context's.
func (m *Manager) preempt(ctx context.Context, p *v1.Pod, victims []*v1.Pod) error {
	for _, victim := range victims {
		const why = "Preempted in order to admit critical pod"
		m.note(victim, Note{Type: v1.EventTypeWarning, Reason: preempting, Message: why})
		m.log(ctx, victim).Info("Preempting pod to free up resources", "requestingPod", klog.KObj(p))
		if err := m.Evict(victim.UID, Eviction{
			Reason: preempting, Message: why, GraceSeconds: ownGrace(victim),
			Condition: &v1.PodCondition{
				Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet,
				Message: "Pod was preempted by Kubelet to accommodate a critical pod.",
			},
		}); err != nil { // it has gone in the meantime
			m.log(ctx, victim).Info("Pod to be preempted is gone", "err", err)
		}
	}
	for _, victim := range victims {
		if err := m.awaitEnd(ctx, victim); err != nil {
			return err
		}
	}
	return nil
}

func ownGrace(p *v1.Pod) int64 {
	if own := p.Spec.TerminationGracePeriodSeconds; own != nil {
		return *own
	}
	return v1.DefaultTerminationGracePeriodSeconds
}

// awaitEnd waits until a Pod that ends holds nothing of the node any more.
func (m *Manager) awaitEnd(ctx context.Context, victim *v1.Pod) error {
	w := m.worker(victim.UID)
	if w == nil {
		return nil
	}
	grace := time.Duration(ownGrace(victim)) * time.Second
	timer := m.cfg.Clock.NewTimer(max(grace+grace/2, leastPatience))
	defer timer.Stop()
	select {
	case <-w.empty:
	case <-timer.C():
		m.note(victim, Note{Type: v1.EventTypeWarning, Reason: "ExceededGracePeriod", Message: "Container runtime did not kill the pod within specified grace period."})
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
