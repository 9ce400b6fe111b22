package horizontalpodautoscaler

import (
	"context"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
)

// set writes one of the conditions.
func (l *look) set(of autoscalingv2.HorizontalPodAutoscalerConditionType, v verdict) {
	is := corev1.ConditionFalse
	if v.ok {
		is = corev1.ConditionTrue
	}
	conditions := &l.hpa.Status.Conditions
	for i := range *conditions {
		if c := &(*conditions)[i]; c.Type == of {
			if c.Status != is {
				c.LastTransitionTime = metav1.NewTime(l.now)
			}
			c.Status, c.Reason, c.Message, c.ObservedGeneration = is, v.reason, v.message, ptr.To(l.hpa.Generation)
			return
		}
	}
	*conditions = append(*conditions, autoscalingv2.HorizontalPodAutoscalerCondition{
		Type: of, Status: is, LastTransitionTime: metav1.NewTime(l.now), Reason: v.reason, Message: v.message, ObservedGeneration: ptr.To(l.hpa.Generation),
	})
}

// fill writes the figures.
func (l *look) fill(current, desired int32, metrics []autoscalingv2.MetricStatus) {
	st := &l.hpa.Status
	st.ObservedGeneration = ptr.To(l.hpa.Generation)
	st.CurrentReplicas, st.DesiredReplicas, st.CurrentMetrics = current, desired, metrics
}

// write stores the status if it is another. What was written meanwhile is looked at again soon.
func (c *controller) write(ctx context.Context, l *look) error {
	if equality.Semantic.DeepEqual(&l.seen.Status, &l.hpa.Status) {
		return nil
	}
	_, err := c.client.AutoscalingV2().HorizontalPodAutoscalers(l.hpa.Namespace).UpdateStatus(ctx, l.hpa, metav1.UpdateOptions{})
	switch {
	case err == nil || apierrors.IsNotFound(err):
		return nil
	case apierrors.IsConflict(err):
		return &engine.Retry{After: conflictPause, Why: "the autoscaler has changed"}
	}
	c.recorder.Event(l.hpa, corev1.EventTypeWarning, "FailedUpdateStatus", err.Error())
	return fmt.Errorf("failed to update status for %s: %w", l.hpa.Name, err)
}
