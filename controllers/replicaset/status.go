package replicaset

import (
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/pods"
)

// statusOf is what the status of the set is, given its Pods and how making or deleting some went. If some are ready but not
// for long enough, again is when the next of them is.
func statusOf(s *set, active, terminating []*corev1.Pod, manageErr error, now time.Time) (status appsv1.ReplicaSetStatus, again time.Time) {
	status = *s.status.DeepCopy()
	status.ObservedGeneration = s.owner.GetGeneration()
	status.Replicas, status.FullyLabeledReplicas, status.ReadyReplicas, status.AvailableReplicas = int32(len(active)), 0, 0, 0
	if _, ok := s.owner.(*appsv1.ReplicaSet); ok {
		status.TerminatingReplicas = ptr.To(int32(len(terminating)))
	}
	template := labels.SelectorFromSet(s.spec.Template.Labels)
	for _, p := range active {
		if template.Matches(labels.Set(p.Labels)) {
			status.FullyLabeledReplicas++
		}
		if pods.Ready(p) == nil {
			continue
		}
		status.ReadyReplicas++
		ok, when := pods.Available(p, s.spec.MinReadySeconds, now)
		if ok {
			status.AvailableReplicas++
		} else if again.IsZero() || when.Before(again) {
			again = when
		}
	}
	failing := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	switch at := slices.IndexFunc(status.Conditions, failing); {
	case manageErr == nil:
		status.Conditions = slices.DeleteFunc(status.Conditions, failing)
	case at < 0:
		reason := "FailedCreate"
		if len(active) > s.wanted() {
			reason = "FailedDelete"
		}
		status.Conditions = append(status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetReplicaFailure, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now),
			Reason: reason, Message: firstOf(manageErr).Error(),
		})
	}
	return status, again
}

// firstOf is the first of joined errors: those of one batch say the same many times.
func firstOf(err error) error {
	if joined, ok := err.(interface{ Unwrap() []error }); ok && len(joined.Unwrap()) > 0 {
		return joined.Unwrap()[0]
	}
	return err
}
