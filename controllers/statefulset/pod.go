package statefulset

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// pod is the Pod of an ordinal, by the template of a revision; it is not in the API yet.
func (c *controller) pod(set *appsv1.StatefulSet, ordinal int, t *corev1.PodTemplateSpec, revision string) *corev1.Pod {
	p := c.control.FromTemplate(set, t)
	p.GenerateName, p.Name = "", fmt.Sprintf("%s-%d", set.Name, ordinal)
	if p.Labels == nil {
		p.Labels = map[string]string{}
	}
	p.Labels[appsv1.StatefulSetPodNameLabel] = p.Name
	p.Labels[appsv1.PodIndexLabel] = strconv.Itoa(ordinal)
	p.Labels[appsv1.StatefulSetRevisionLabel] = revision
	p.Spec.Hostname, p.Spec.Subdomain = p.Name, set.Spec.ServiceName
	for _, claim := range set.Spec.VolumeClaimTemplates {
		p.Spec.Volumes = slices.DeleteFunc(p.Spec.Volumes, func(v corev1.Volume) bool { return v.Name == claim.Name })
		p.Spec.Volumes = append(p.Spec.Volumes, corev1.Volume{Name: claim.Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(set, &claim, ordinal)}}})
	}
	return p
}

// identify gives a Pod of the set the labels back by which Services select it alone.
func (c *controller) identify(ctx context.Context, set *appsv1.StatefulSet, p *corev1.Pod) error {
	body, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": p.UID, "labels": map[string]string{
		appsv1.StatefulSetPodNameLabel: p.Name, appsv1.PodIndexLabel: strconv.Itoa(ordinalOf(set.Name, p.Name))}}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Pods(p.Namespace).Patch(ctx, p.Name, types.StrategicMergePatchType, body, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return nil // the event of what came first queues the set
	}
	if err != nil {
		c.control.Recorder.Event(set, corev1.EventTypeWarning, "FailedUpdate", words("Update", p.Name, set.Name, err))
		return fmt.Errorf("label pod %s: %w", p.Name, err)
	}
	c.control.Recorder.Event(set, corev1.EventTypeNormal, "SuccessfulUpdate", words("Update", p.Name, set.Name, nil))
	return nil
}
