package statefulset

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

func claimName(set *appsv1.StatefulSet, claim *corev1.PersistentVolumeClaim, ordinal int) string {
	return fmt.Sprintf("%s-%s-%d", claim.Name, set.Name, ordinal)
}

// retention says whether claims are to go with the set, and with Pods that it no longer wants.
func retention(set *appsv1.StatefulSet) (deleted, scaled bool) {
	r := set.Spec.PersistentVolumeClaimRetentionPolicy
	return r != nil && r.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
		r != nil && r.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType
}

// claimGone queues the sets that may have a Pod that waits for the claim to be gone, or to be there again.
func (c *controller) claimGone(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		return
	}
	list, err := c.sets.StatefulSets(name.Namespace).List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, set := range list {
		if slices.ContainsFunc(set.Spec.VolumeClaimTemplates, func(t corev1.PersistentVolumeClaim) bool {
			pod, ok := strings.CutPrefix(name.Name, t.Name+"-")
			return ok && ordinalOf(set.Name, pod) >= 0
		}) {
			c.loop.Add(cache.MetaObjectToName(set))
		}
	}
}

// claimsOf are the claims of an ordinal that exist, as the informer shows them.
func (c *controller) claimsOf(set *appsv1.StatefulSet, ordinal int) []*corev1.PersistentVolumeClaim {
	var out []*corev1.PersistentVolumeClaim
	for i := range set.Spec.VolumeClaimTemplates {
		claim, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(claimName(set, &set.Spec.VolumeClaimTemplates[i], ordinal))
		if err == nil { // a lister of a store in memory fails only for what is not there
			out = append(out, claim)
		}
	}
	return out
}

// isStale says whether a claim of the Pod, which is not made yet, is still to go with the one before it.
func (c *controller) isStale(set *appsv1.StatefulSet, p *corev1.Pod) bool {
	if _, scaled := retention(set); !scaled {
		return false
	}
	return slices.ContainsFunc(c.claimsOf(set, ordinalOf(set.Name, p.Name)), func(claim *corev1.PersistentVolumeClaim) bool {
		return slices.ContainsFunc(claim.OwnerReferences, func(r metav1.OwnerReference) bool { return names(r, p, podKind) })
	})
}

// provide makes the claims of the Pod that are not there. The Pod itself may not be there yet.
func (c *controller) provide(ctx context.Context, set *appsv1.StatefulSet, p *corev1.Pod) error {
	var errs []error
	ordinal := ordinalOf(set.Name, p.Name)
	for i := range set.Spec.VolumeClaimTemplates {
		template := &set.Spec.VolumeClaimTemplates[i]
		name := claimName(set, template, ordinal)
		have, err := c.claims.PersistentVolumeClaims(set.Namespace).Get(name)
		switch {
		case apierrors.IsNotFound(err):
			if err := c.claim(ctx, set, template, ordinal); err != nil && !apierrors.IsAlreadyExists(err) {
				errs = append(errs, fmt.Errorf("failed to create PVC %s: %w", name, err))
			}
		case err != nil:
			errs = append(errs, fmt.Errorf("failed to retrieve PVC %s: %w", name, err))
		case have.DeletionTimestamp != nil:
			errs = append(errs, fmt.Errorf("pvc %s is being deleted", name))
		}
	}
	return errors.Join(errs...)
}

// claim makes a claim, with an event either way.
func (c *controller) claim(ctx context.Context, set *appsv1.StatefulSet, template *corev1.PersistentVolumeClaim, ordinal int) error {
	claim := template.DeepCopy()
	claim.Name, claim.Namespace = claimName(set, template, ordinal), set.Namespace
	if claim.Labels == nil {
		claim.Labels = map[string]string{}
	}
	maps.Copy(claim.Labels, set.Spec.Selector.MatchLabels)
	if withSet, _ := retention(set); withSet {
		claim.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(set, kind)}
	}
	_, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).Create(ctx, claim, metav1.CreateOptions{})
	pod := fmt.Sprintf("%s-%d", set.Name, ordinal)
	switch {
	case err == nil:
		c.control.Recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", claim.Name, pod, set.Name)
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil // nothing can be made there, and the set goes too
	case !apierrors.IsAlreadyExists(err):
		c.control.Recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %v", claim.Name, pod, set.Name, err)
	}
	return err
}

// own has the Pod's claims owned by whom they are to go with, as the set's policy is now.
func (c *controller) own(ctx context.Context, set *appsv1.StatefulSet, p *corev1.Pod) error {
	var errs []error
	for _, claim := range c.claimsOf(set, ordinalOf(set.Name, p.Name)) {
		want, conflict := owners(set, p, claim.OwnerReferences)
		if equality.Semantic.DeepEqual(want, claim.OwnerReferences) {
			continue
		}
		if conflict {
			c.control.Recorder.Eventf(set, corev1.EventTypeWarning, "ConflictingController",
				"PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a managing controller, the retention policy is ignored for this claim", claim.Name)
		}
		next := claim.DeepCopy()
		next.OwnerReferences = want
		_, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, next, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("could not update claim %s for delete policy ownerRefs: %w", claim.Name, err))
		}
	}
	return errors.Join(errs...)
}

// names says whether the reference is to an object of that kind and name, this one or one before it.
func names(r metav1.OwnerReference, o metav1.Object, kind schema.GroupVersionKind) bool {
	return r.APIVersion == kind.GroupVersion().String() && r.Kind == kind.Kind && r.Name == o.GetName()
}

// owners are who is to own a claim of the Pod that has these owners: the Pod, if the set no longer wants it and its claims
// are to go with it, or else the set, if they are to go with that. Others' references stay. Where one is to a set or a Pod
// before these, nothing is changed: the garbage collector is about to take the claim. Where another controller has the claim
// the policy does not count, which conflict says.
func owners(set *appsv1.StatefulSet, p *corev1.Pod, have []metav1.OwnerReference) (want []metav1.OwnerReference, conflict bool) {
	withSet, withPod := retention(set)
	ours := func(r metav1.OwnerReference) bool { return names(r, set, kind) || names(r, p, podKind) }
	for _, r := range have {
		if ours(r) && r.UID != set.UID && r.UID != p.UID {
			return have, false
		}
		conflict = conflict || !ours(r) && ptr.Deref(r.Controller, false) && (withSet || withPod)
	}
	var owner *metav1.OwnerReference
	switch {
	case conflict:
	case withPod && !inRange(set, ordinalOf(set.Name, p.Name)):
		owner = metav1.NewControllerRef(p, podKind)
	case withSet:
		owner = metav1.NewControllerRef(set, kind)
	}
	for _, r := range have {
		if !ours(r) {
			want = append(want, r)
		} else if owner != nil && r.UID == owner.UID && ptr.Deref(r.Controller, false) {
			want, owner = append(want, r), nil
		}
	}
	if owner != nil {
		want = append(want, *owner)
	}
	return want, conflict
}
