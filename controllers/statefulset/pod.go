package statefulset

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

func claimName(set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", claim.Name, set.Name, ordinal)
}

func retention(set *appsv1.StatefulSet) (deleted, scaled bool) {
	r := set.Spec.PersistentVolumeClaimRetentionPolicy
	return r != nil && r.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
		r != nil && r.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
}

// provide makes the claims of an ordinal that are not there, and puts right who owns those that are: the set, if they are to
// go with it, and no longer the Pod with which they were to go when the set was smaller.
func (c *controller) provide(ctx context.Context, set *appsv1.StatefulSet, ordinal int) error {
	withSet, _ := retention(set)
	for i := range set.Spec.VolumeClaimTemplates {
		template := &set.Spec.VolumeClaimTemplates[i]
		name := claimName(set, template, ordinal)
		have, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Get(ctx, name, metav1.GetOptions{})
		if err == nil {
			err = c.own(ctx, set, have, withSet)
		} else if apierrors.IsNotFound(err) {
			err = c.claim(ctx, set, template, ordinal, withSet)
		}
		if err != nil {
			return fmt.Errorf("provide claim %s: %w", name, err)
		}
	}
	return nil
}

func (c *controller) claim(ctx context.Context, set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int, withSet bool) error {
	claim := template.DeepCopy()
	claim.Name, claim.Namespace = claimName(set, template, ordinal), set.Namespace
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	if withSet {
		claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)}
	}
	_, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	pod := fmt.Sprintf("%s-%d", set.Name, ordinal)
	if err != nil {
		c.control.Recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, pod, set.Name, err)
		return err
	}
	c.control.Recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod, set.Name)
	return nil
}

// own brings the references of a claim to the set and its Pods into line. Others' references stay.
func (c *controller) own(ctx context.Context, set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim, withSet bool) error {
	ours := func(r metav1.OwnerReference) bool {
		return r.UID == set.UID || r.Kind == "Pod" && ordinalOf(set.Name, r.Name) >= 0
	}
	var want []metav1.OwnerReference
	for _, r := range claim.OwnerReferences {
		if !ours(r) || withSet && r.UID == set.UID {
			want = append(want, r)
		}
	}
	if withSet && !slices.ContainsFunc(want, func(r metav1.OwnerReference) bool { return r.UID == set.UID }) {
		want = append(want, *metav1.NewControllerRef(set, kind))
	}
	if len(want) == len(claim.OwnerReferences) {
		return nil
	}
	claim.OwnerReferences = want
	_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	return err
}

// retire makes the claims of a Pod that goes for good go with it, where the set says so.
func (c *controller) retire(ctx context.Context, set *appsv1.StatefulSet, p *corev1.Pod) error {
	if _, withPod := retention(set); !withPod {
		return nil
	}
	for i := range set.Spec.VolumeClaimTemplates {
		name := claimName(set, &set.Spec.VolumeClaimTemplates[i], ordinalOf(set.Name, p.Name))
		claim, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			continue
		}
		if err == nil {
			claim.OwnerReferences = slices.DeleteFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool { return r.UID == set.UID || r.UID == p.UID })
			claim.OwnerReferences = append(claim.OwnerReferences, metav1.OwnerReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID})
			_, err = c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
		}
		if err != nil {
			return fmt.Errorf("hand claim %s to its pod: %w", name, err)
		}
	}
	return nil
}
