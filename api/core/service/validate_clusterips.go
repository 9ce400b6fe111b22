package service

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	apivalidation "github.com/peapod/peapod/api/validation"
)

// validateClusterIPs checks clusterIP, clusterIPs, ipFamilies and ipFamilyPolicy against each other. It is used before
// addresses are allocated, too.
func validateClusterIPs(obj, old *corev1.Service) field.ErrorList {
	if !wantsClusterIP(obj) {
		return nil // Whether any of them is set is checked for that type alone.
	}
	spec, path := &obj.Spec, field.NewPath("spec")
	ips := path.Child("clusterIPs")
	var errs field.ErrorList
	switch {
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(ips, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "first value must match `clusterIP`"))
	}
	seen := sets.Set[corev1.IPFamily]{}
	for i, family := range spec.IPFamilies {
		at := path.Child("ipFamilies").Index(i)
		errs = append(errs, apivalidation.Supported(family, at, corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if seen.Has(family) {
			errs = append(errs, field.Duplicate(at, family))
		}
		seen.Insert(family)
	}
	errs = append(errs, apivalidation.OptionalEnum(spec.IPFamilyPolicy, path.Child("ipFamilyPolicy"),
		corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)

	bad := validateEachIP(obj, old, ips)
	errs = append(errs, bad...)
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if len(bad) > 0 {
		return errs // What follows would only repeat, in other words, that these are not addresses.
	}
	if len(spec.ClusterIPs) > 1 {
		dual, err := netutils.IsDualStackIPStrings(spec.ClusterIPs)
		if err != nil {
			errs = append(errs, field.InternalError(ips, fmt.Errorf("failed to check for dual stack with error:%v", err)))
		}
		if !dual {
			errs = append(errs, field.Invalid(ips, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
		}
	}
	return append(errs, validateIPFamilies(obj, ips)...)
}

// validateEachIP checks that every entry is an address, or None alone.
func validateEachIP(obj, old *corev1.Service, path *field.Path) field.ErrorList {
	var before []string
	if old != nil {
		before = old.Spec.ClusterIPs
	}
	var errs field.ErrorList
	for i, ip := range obj.Spec.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(obj.Spec.ClusterIPs) > 1 {
				errs = append(errs, field.Invalid(path, obj.Spec.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		errs = append(errs, validation.IsValidIPForLegacyField(path.Index(i), ip, true, before)...)
	}
	return errs
}

// validateIPFamilies checks that each address is of the family at its place.
func validateIPFamilies(obj *corev1.Service, path *field.Path) field.ErrorList {
	if headless(obj) {
		return nil
	}
	var errs field.ErrorList
	for i, ip := range obj.Spec.ClusterIPs {
		if i >= len(obj.Spec.IPFamilies) {
			break
		}
		family := obj.Spec.IPFamilies[i]
		known := family == corev1.IPv4Protocol || family == corev1.IPv6Protocol
		if known && familyOf(ip) != family {
			errs = append(errs, field.Invalid(path.Index(i), ip,
				fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", family, i)))
		}
	}
	return errs
}
