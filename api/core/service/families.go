package service

import (
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// decideFamilies sets ipFamilyPolicy and ipFamilies from what the user asks for, what the Service had (old, nil on
// create) and which families the cluster has (the primary one first). It returns an API error where they conflict.
func decideFamilies(obj, old *corev1.Service, cluster []corev1.IPFamily) error {
	if !wantsClusterIP(obj) || keepsDualStack(obj, old) {
		return nil
	}
	spec, path := &obj.Spec, field.NewPath("spec")
	if spec.IPFamilyPolicy == nil {
		spec.IPFamilyPolicy = ptr.To(defaultPolicy(obj, old))
	}
	if errs := validateClusterIPs(obj, old); len(errs) > 0 {
		return invalid(obj, errs)
	}
	var errs field.ErrorList
	if old != nil {
		errs = append(errs, shrink(obj, old, path.Child("ipFamilyPolicy"))...)
	}
	if policy(obj) == corev1.IPFamilyPolicySingleStack {
		const msg = "must be 'RequireDualStack' or 'PreferDualStack' when multiple %s are specified"
		if len(spec.ClusterIPs) == 2 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy,
				fmt.Sprintf(msg, "cluster IPs")))
		}
		if len(spec.IPFamilies) == 2 {
			errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy,
				fmt.Sprintf(msg, "IP families")))
		}
	}
	errs = append(errs, familiesOfIPs(obj, cluster, path.Child("clusterIPs"))...)
	if len(errs) > 0 {
		return invalid(obj, errs)
	}
	if headless(obj) && len(spec.Selector) == 0 {
		// The user maintains the endpoints, of whichever families: the cluster's own do not matter.
		fillFamilies(obj, cluster[0], true)
		return nil
	}
	if policy(obj) == corev1.IPFamilyPolicyRequireDualStack && len(cluster) < 2 {
		errs = append(errs, field.Invalid(path.Child("ipFamilyPolicy"), spec.IPFamilyPolicy,
			"this cluster is not configured for dual-stack services"))
	}
	for i, family := range spec.IPFamilies {
		if !slices.Contains(cluster, family) {
			errs = append(errs, field.Invalid(path.Child("ipFamilies").Index(i), family,
				"not configured on this cluster"))
		}
	}
	if len(errs) > 0 {
		return invalid(obj, errs)
	}
	fillFamilies(obj, cluster[0], len(cluster) == 2)
	return nil
}

func invalid(obj *corev1.Service, errs field.ErrorList) error {
	return apierrors.NewInvalid(corev1.SchemeGroupVersion.WithKind("Service").GroupKind(), obj.Name, errs)
}

// keepsDualStack says that an update leaves a PreferDualStack Service as it is. Such a one is not extended because the
// cluster has got a second family meanwhile: that takes a change of the policy.
func keepsDualStack(obj, old *corev1.Service) bool {
	return old != nil && obj.Spec.Type == old.Spec.Type &&
		policy(obj) == corev1.IPFamilyPolicyPreferDualStack &&
		(old.Spec.IPFamilyPolicy == nil || policy(old) == corev1.IPFamilyPolicyPreferDualStack) &&
		sameClusterIPs(obj, old) && sameFamilies(obj, old)
}

func defaultPolicy(obj, old *corev1.Service) corev1.IPFamilyPolicy {
	switch {
	case old != nil && old.Spec.IPFamilyPolicy != nil:
		return *old.Spec.IPFamilyPolicy
	case obj.Spec.ClusterIP == corev1.ClusterIPNone && len(obj.Spec.Selector) == 0:
		return corev1.IPFamilyPolicyRequireDualStack
	}
	return corev1.IPFamilyPolicySingleStack
}

// shrink takes the second address and family off where the policy has become SingleStack and the user left the lists
// alone; with any other policy they may not get shorter.
func shrink(obj, old *corev1.Service, path *field.Path) field.ErrorList {
	spec := &obj.Spec
	if policy(obj) == corev1.IPFamilyPolicySingleStack {
		if sameClusterIPs(obj, old) && len(spec.ClusterIPs) > 1 {
			spec.ClusterIPs = spec.ClusterIPs[:1:1]
		}
		if sameFamilies(obj, old) && len(spec.IPFamilies) > 1 {
			spec.IPFamilies = spec.IPFamilies[:1:1]
		}
		return nil
	}
	var errs field.ErrorList
	if n := len(spec.ClusterIPs); n > 0 && n < len(old.Spec.ClusterIPs) {
		errs = append(errs, field.Invalid(path, spec.IPFamilyPolicy,
			"must be 'SingleStack' to release the secondary cluster IP"))
	}
	if n := len(spec.IPFamilies); n > 0 && n < len(old.Spec.IPFamilies) {
		errs = append(errs, field.Invalid(path, spec.IPFamilyPolicy,
			"must be 'SingleStack' to release the secondary IP family"))
	}
	return errs
}

// familiesOfIPs adds to ipFamilies what the user's addresses imply.
func familiesOfIPs(obj *corev1.Service, cluster []corev1.IPFamily, path *field.Path) field.ErrorList {
	if headless(obj) {
		return nil
	}
	var errs field.ErrorList
	spec := &obj.Spec
	for i, ip := range spec.ClusterIPs {
		if i < len(spec.IPFamilies) {
			continue
		}
		family := familyOf(ip)
		if !slices.Contains(cluster, family) {
			errs = append(errs, field.Invalid(path.Index(i), spec.ClusterIPs,
				fmt.Sprintf("%s is not configured on this cluster", family)))
			continue
		}
		spec.IPFamilies = append(slices.Clip(spec.IPFamilies), family)
	}
	return errs
}

// fillFamilies completes ipFamilies: with primary where there is none, and with the other family where the policy wants
// two and two can be had.
func fillFamilies(obj *corev1.Service, primary corev1.IPFamily, two bool) {
	spec := &obj.Spec
	if len(spec.IPFamilies) == 0 {
		spec.IPFamilies = []corev1.IPFamily{primary}
	}
	if two && len(spec.IPFamilies) == 1 && policy(obj) != corev1.IPFamilyPolicySingleStack {
		spec.IPFamilies = append(slices.Clip(spec.IPFamilies), otherFamily(spec.IPFamilies[0]))
	}
}
