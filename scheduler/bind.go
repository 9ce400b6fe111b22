package scheduler

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/metrics"
	"github.com/peapod/peapod/scheduler/plugins/dynamicresources"
	"github.com/peapod/peapod/scheduler/plugins/volumebinding"
)

// bind tells the API that the Pod is on the node.
func (s *Scheduler) bind(ctx context.Context, pod *framework.Pod, node string) (err error) {
	began := s.cfg.Clock.Now()
	defer func() { s.timed(framework.Bind, began, framework.Outcome(err)) }()
	// The binding outlives a stop of the scheduler: half of it would leave the Pod assumed by nobody.
	err = s.cfg.Client.CoreV1().Pods(pod.Namespace).Bind(context.WithoutCancel(ctx), &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod.Name, Namespace: pod.Namespace, UID: pod.UID},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
	if err != nil {
		return fmt.Errorf("binding rejected: %w", err)
	}
	return nil
}

// bindWithClaims binds the Pod once it has its devices and its volumes are bound. As that may take long, the Pod's status says meanwhile
// on which node it is to be, and no longer if it fails.
func (s *Scheduler) bindWithClaims(ctx context.Context, pod *framework.Pod, node string, wait *bindWait) error {
	if pod.Status.NominatedNodeName != node {
		if err := s.nominate(ctx, pod, node); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Say where a Pod is going to be failed", "pod", klog.KObj(pod.Pod), "node", node)
		}
	}
	err := s.bindClaims(ctx, node, wait)
	if err == nil {
		err = s.bind(ctx, pod, node)
	}
	// What a Pod that has gone leaves, its controllers take back; and what a scheduler that is stopped does, the next one finds.
	if err != nil && !errors.Is(err, errPodGone) && !gone(err) && ctx.Err() == nil {
		s.unreserve(ctx, wait)
		if failed := s.nominate(ctx, pod, ""); failed != nil {
			klog.FromContext(ctx).Error(failed, "Take back what a Pod was promised failed", "pod", klog.KObj(pod.Pod))
		}
	}
	return err
}

// bindClaims gives the Pod its devices first, so that no volume is made where it cannot have them.
func (s *Scheduler) bindClaims(ctx context.Context, node string, wait *bindWait) (err error) {
	began := s.cfg.Clock.Now()
	defer func() { s.timed(framework.PreBind, began, framework.Outcome(err)) }()
	if err := s.bindDevices(ctx, node, wait); err != nil {
		if errors.Is(err, errPodGone) {
			return err
		}
		// Not wrapped: a claim that has gone or was changed says nothing of the Pod.
		return fmt.Errorf("running PreBind plugin %q: %v", dynamicresources.Plugin{}.Name(), err)
	}
	if err := s.bindVolumes(ctx, wait); err != nil {
		return fmt.Errorf("running PreBind plugin %q: binding volumes: %w", volumebinding.Plugin{}.Name(), err)
	}
	return nil
}

// bound reports the end of a binding. A Pod whose binding failed is tried again after its back-off.
func (s *Scheduler) bound(ctx context.Context, a attempt, node string, err error) {
	pod := a.pod
	if err == nil {
		s.attempted(a, metrics.Scheduled)
		s.cfg.Recorder.Eventf(pod.Pod, nil, corev1.EventTypeNormal, "Scheduled", "Binding",
			"Successfully assigned %s/%s to %s", pod.Namespace, pod.Name, node)
		return
	}
	s.mu.Lock()
	if s.assumed[pod.UID] == node {
		delete(s.assumed, pod.UID)
		s.cluster.RemovePod(pod.UID)
	}
	s.queue.Failed(pod.UID, nil, s.cfg.Clock.Now())
	s.signal()
	s.mu.Unlock()
	if gone(err) || errors.Is(err, errPodGone) || ctx.Err() != nil {
		s.attempted(a, metrics.Failed)
		return // deleted, bound or changed meanwhile: its event says the rest
	}
	s.reject(ctx, a, corev1.PodReasonSchedulerError, err.Error())
}

// reject ends an attempt that found no node, and reports why: in the Pod's PodScheduled condition and as an event.
func (s *Scheduler) reject(ctx context.Context, a attempt, reason, message string) {
	pod, result := a.pod, metrics.Failed
	if reason == corev1.PodReasonUnschedulable {
		result = metrics.Unschedulable
	}
	s.attempted(a, result)
	s.cfg.Recorder.Eventf(pod.Pod, nil, corev1.EventTypeWarning, "FailedScheduling", "Scheduling", "%s", message)
	condition := corev1.PodCondition{
		Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: reason, Message: message,
		ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(s.cfg.Clock.Now()),
	}
	for _, c := range pod.Status.Conditions {
		if c.Type != condition.Type {
			continue
		}
		if c.Status == condition.Status {
			condition.LastTransitionTime = c.LastTransitionTime
		}
		if c.Reason == condition.Reason && c.Message == condition.Message && c.Status == condition.Status {
			return
		}
	}
	err := s.patchStatus(ctx, pod, map[string]any{"conditions": []corev1.PodCondition{condition}})
	if err != nil && !gone(err) && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Write status of a Pod failed", "pod", klog.KObj(pod.Pod))
	}
}

// onlyStatusChanged says whether nothing that scheduling depends on differs.
func onlyStatusChanged(old, new *corev1.Pod) bool {
	return equality.Semantic.DeepEqual(old.Spec, new.Spec) && equality.Semantic.DeepEqual(old.Labels, new.Labels) &&
		resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, new.Status.ResourceClaimStatuses)
}
