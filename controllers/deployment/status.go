package deployment

import (
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// Reasons of the condition Progressing, and of Available.
const (
	reasonCreated     = "NewReplicaSetCreated"
	reasonFound       = "FoundNewReplicaSet"
	reasonUpdated     = "ReplicaSetUpdated"
	reasonComplete    = "NewReplicaSetAvailable"
	reasonTimedOut    = "ProgressDeadlineExceeded"
	reasonPaused      = "DeploymentPaused"
	reasonResumed     = "DeploymentResumed"
	reasonCreateError = "ReplicaSetCreateError"
	reasonEnough      = "MinimumReplicasAvailable"
	reasonTooFew      = "MinimumReplicasUnavailable"
)

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

func condition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range s.Conditions {
		if s.Conditions[i].Type == t {
			return &s.Conditions[i]
		}
	}
	return nil
}

func removeCondition(s *appsv1.DeploymentStatus, t appsv1.DeploymentConditionType) {
	s.Conditions = slices.DeleteFunc(s.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == t })
}

// setCondition sets a condition unless it has this status and reason already: its message and times stay then.
func setCondition(s *appsv1.DeploymentStatus, c appsv1.DeploymentCondition, now time.Time) {
	c.LastUpdateTime, c.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
	if old := condition(s, c.Type); old != nil {
		if old.Status == c.Status && old.Reason == c.Reason {
			return
		}
		if old.Status == c.Status {
			c.LastTransitionTime = old.LastTransitionTime
		}
	}
	removeCondition(s, c.Type)
	s.Conditions = append(s.Conditions, c)
}

func progressing(status corev1.ConditionStatus, reason, format string, args ...any) appsv1.DeploymentCondition {
	return appsv1.DeploymentCondition{Type: appsv1.DeploymentProgressing, Status: status, Reason: reason, Message: fmt.Sprintf(format, args...)}
}

// count returns the Deployment's status as its ReplicaSets have it, with its conditions but for progress.
func count(d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet, now time.Time) appsv1.DeploymentStatus {
	all := append(slices.Clone(olds), newest)
	s := appsv1.DeploymentStatus{
		ObservedGeneration: d.Generation, Replicas: sum(all, existing), ReadyReplicas: sum(all, isReady), AvailableReplicas: sum(all, available),
		TerminatingReplicas: terminating(all), CollisionCount: d.Status.CollisionCount, Conditions: slices.Clone(d.Status.Conditions),
	}
	if newest != nil {
		s.UpdatedReplicas = newest.Status.Replicas
	}
	s.UnavailableReplicas = max(0, sum(all, size)-s.AvailableReplicas)
	_, unavailable := bounds(d)
	enough := appsv1.DeploymentCondition{Type: appsv1.DeploymentAvailable, Status: corev1.ConditionTrue,
		Reason: reasonEnough, Message: "Deployment has minimum availability."}
	if s.AvailableReplicas < desired(d)-unavailable {
		enough.Status, enough.Reason, enough.Message = corev1.ConditionFalse, reasonTooFew, "Deployment does not have minimum availability."
	}
	setCondition(&s, enough, now)
	return s
}

// terminating adds up the Pods that are being deleted; nil if a ReplicaSet does not say.
func terminating(sets []*appsv1.ReplicaSet) *int32 {
	var n int32
	for _, rs := range sets {
		if rs == nil {
			continue
		}
		if rs.Status.TerminatingReplicas == nil {
			return nil
		}
		n += *rs.Status.TerminatingReplicas
	}
	return &n
}

// complete says whether all Pods are of the new version and available, and none of the others is left.
func complete(d *appsv1.Deployment, s *appsv1.DeploymentStatus) bool {
	n := desired(d)
	return s.UpdatedReplicas == n && s.Replicas == n && s.AvailableReplicas == n && s.ObservedGeneration >= d.Generation
}

// advanced says whether the status is a step ahead of the one before.
func advanced(before, s *appsv1.DeploymentStatus) bool {
	return s.UpdatedReplicas > before.UpdatedReplicas || s.Replicas-s.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		s.ReadyReplicas > before.ReadyReplicas || s.AvailableReplicas > before.AvailableReplicas
}

// timedOut says whether the deadline for a step has passed.
func timedOut(d *appsv1.Deployment, s *appsv1.DeploymentStatus, now time.Time) bool {
	c := condition(s, appsv1.DeploymentProgressing)
	switch {
	case c == nil || !hasDeadline(d) || c.Reason == reasonComplete:
		return false
	case c.Reason == reasonTimedOut:
		return true
	}
	return c.LastUpdateTime.Add(deadline(d)).Before(now)
}

func deadline(d *appsv1.Deployment) time.Duration {
	return time.Duration(ptr.Deref(d.Spec.ProgressDeadlineSeconds, 0)) * time.Second
}

// report returns the status of a Deployment whose rollout goes on.
func report(d *appsv1.Deployment, newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet, now time.Time) appsv1.DeploymentStatus {
	s := count(d, newest, olds, now)
	current := condition(&s, appsv1.DeploymentProgressing)
	done := current != nil && current.Reason == reasonComplete && s.Replicas == s.UpdatedReplicas
	what := fmt.Sprintf("Deployment %q", d.Name)
	if newest != nil {
		what = fmt.Sprintf("ReplicaSet %q", newest.Name)
	}
	switch {
	case !hasDeadline(d):
		removeCondition(&s, appsv1.DeploymentProgressing)
	case done:
	case complete(d, &s):
		setCondition(&s, progressing(corev1.ConditionTrue, reasonComplete, "%s has successfully progressed.", what), now)
	case advanced(&d.Status, &s):
		// Each step starts the deadline anew, so the condition is written even if it says what it said.
		c := progressing(corev1.ConditionTrue, reasonUpdated, "%s is progressing.", what)
		c.LastUpdateTime, c.LastTransitionTime = metav1.NewTime(now), metav1.NewTime(now)
		if current != nil && current.Status == corev1.ConditionTrue {
			c.LastTransitionTime = current.LastTransitionTime
		}
		removeCondition(&s, appsv1.DeploymentProgressing)
		s.Conditions = append(s.Conditions, c)
	case timedOut(d, &s, now):
		setCondition(&s, progressing(corev1.ConditionFalse, reasonTimedOut, "%s has timed out progressing.", what), now)
	}
	if failure := failureOf(newest, olds); failure != nil {
		setCondition(&s, *failure, now)
	} else {
		removeCondition(&s, appsv1.DeploymentReplicaFailure)
	}
	return s
}

// failureOf is what a ReplicaSet says of its failure to make or delete Pods, the new one first.
func failureOf(newest *appsv1.ReplicaSet, olds []*appsv1.ReplicaSet) *appsv1.DeploymentCondition {
	for _, rs := range append([]*appsv1.ReplicaSet{newest}, olds...) {
		if rs == nil {
			continue
		}
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{Type: appsv1.DeploymentReplicaFailure, Status: c.Status, Reason: c.Reason, Message: c.Message}
			}
		}
	}
	return nil
}

// notePause tells of a pause and of its end in the condition Progressing, so that neither counts against the deadline.
func notePause(d *appsv1.Deployment, now time.Time) {
	c := condition(&d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(d) || c != nil && c.Reason == reasonTimedOut {
		return
	}
	paused := c != nil && c.Reason == reasonPaused
	switch {
	case d.Spec.Paused && !paused:
		setCondition(&d.Status, progressing(corev1.ConditionUnknown, reasonPaused, "Deployment is paused"), now)
	case !d.Spec.Paused && paused:
		setCondition(&d.Status, progressing(corev1.ConditionUnknown, reasonResumed, "Deployment is resumed"), now)
	}
}

// checkAt is when the deadline is to be looked at: the zero time if no step is awaited.
func checkAt(d *appsv1.Deployment, s *appsv1.DeploymentStatus) time.Time {
	c := condition(s, appsv1.DeploymentProgressing)
	if c == nil || !hasDeadline(d) || d.Spec.Paused || c.Reason == reasonTimedOut || c.Reason == reasonComplete || complete(d, s) {
		return time.Time{}
	}
	return c.LastUpdateTime.Add(deadline(d) + time.Second)
}
