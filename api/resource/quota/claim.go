package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/component-helpers/storage/volume"
)

const (
	countClaims corev1.ResourceName = "count/persistentvolumeclaims"
	// ofClass stands between the name of a StorageClass and what is bounded of its claims.
	ofClass = ".storageclass.storage.k8s.io/"
)

func claimEvaluator(list ListFunc) quota.Evaluator {
	claims := corev1.Resource("persistentvolumeclaims")
	return &evaluator{
		resource: claims, list: listOf(claims, list), bounds: boundsClaims, usage: claimUsage, inScope: claimInScope,
		handles: func(a admission.Attributes) bool {
			switch a.GetSubresource() {
			case "":
				return a.GetOperation() == admission.Create || a.GetOperation() == admission.Update
			case "status":
				// An expansion that is given up, or a change of attributes, may change what is used.
				return a.GetOperation() == admission.Update
			}
			return false
		},
	}
}

func boundsClaims(name corev1.ResourceName) bool {
	if name == countClaims {
		return true
	}
	if _, after, ok := strings.Cut(string(name), ofClass); ok {
		name = corev1.ResourceName(after)
	}
	return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
}

func claimUsage(obj runtime.Object) (corev1.ResourceList, error) {
	claim, err := typed[*corev1.PersistentVolumeClaim](obj)
	if err != nil {
		return nil, err
	}
	usage := corev1.ResourceList{countClaims: count(1), corev1.ResourcePersistentVolumeClaims: count(1)}
	if asked, ok := claim.Spec.Resources.Requests[corev1.ResourceStorage]; ok {
		// An expansion that was asked for and taken back is paid for until it is undone.
		if held := claim.Status.AllocatedResources[corev1.ResourceStorage]; held.Cmp(asked) > 0 {
			asked = held
		}
		asked = asked.DeepCopy()
		asked.RoundUp(0)
		usage[corev1.ResourceRequestsStorage] = asked
	}
	class := volume.GetPersistentVolumeClaimClass(claim)
	if class == "" {
		return usage, nil
	}
	for _, name := range []corev1.ResourceName{corev1.ResourcePersistentVolumeClaims, corev1.ResourceRequestsStorage} {
		if q, ok := usage[name]; ok {
			usage[corev1.ResourceName(class+ofClass)+name] = q
		}
	}
	return usage, nil
}

// claimInScope knows the classes of attributes that the claim has, is to have or is about to have.
func claimInScope(r corev1.ScopedResourceSelectorRequirement, obj runtime.Object) (bool, error) {
	claim, err := typed[*corev1.PersistentVolumeClaim](obj)
	if err != nil || r.ScopeName != corev1.ResourceQuotaScopeVolumeAttributesClass {
		return false, err
	}
	var names []string
	for _, name := range []*string{claim.Spec.VolumeAttributesClassName, claim.Status.CurrentVolumeAttributesClassName} {
		if name != nil && *name != "" {
			names = append(names, *name)
		}
	}
	if m := claim.Status.ModifyVolumeStatus; m != nil && m.TargetVolumeAttributesClassName != "" {
		names = append(names, m.TargetVolumeAttributesClassName)
	}
	if len(names) == 0 {
		return selects(r, "")
	}
	for _, name := range names {
		if in, err := selects(r, name); in || err != nil {
			return in, err
		}
	}
	return false, nil
}
