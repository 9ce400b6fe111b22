package disruption

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// disrupted returns the condition of a Pod that says that it is about to be deleted, and is not: nil where there is none. What the
// kubelet ends it deletes later or never, so its word stands.
func disrupted(p *corev1.Pod) *corev1.PodCondition {
	if p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed {
		return nil
	}
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		if c.Type == corev1.DisruptionTarget {
			if c.Status == corev1.ConditionTrue && c.Reason != corev1.PodReasonTerminationByKubelet {
				return c
			}
			return nil
		}
	}
	return nil
}

// watch queues a Pod that is about to be disrupted.
func (c *controller) watch(obj any) {
	if p, ok := obj.(*corev1.Pod); ok && disrupted(p) != nil {
		c.stale.Add(cache.MetaObjectToName(p))
	}
}

// calm takes back that a Pod is about to be disrupted, if it has not been for so long.
func (c *controller) calm(ctx context.Context, key cache.ObjectName) error {
	p, err := c.pods.Pods(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod: %w", err)
	}
	said := disrupted(p)
	if said == nil {
		return nil
	}
	if wait := evictionTime - c.now().Sub(said.LastTransitionTime.Time); wait > 0 {
		return &engine.Retry{After: wait, Why: "its deletion may come"}
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID, "resourceVersion": p.ResourceVersion},
		"status": map[string]any{"conditions": []map[string]any{{"type": corev1.DisruptionTarget, "status": corev1.ConditionFalse,
			"reason": nil, "message": nil, "lastTransitionTime": metav1.NewTime(c.now()), "observedGeneration": p.Generation}}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("take back the disruption of pod %s: %w", p.Name, err)
	}
	return nil
}
