package service

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Warnings tell of settings that are ignored or deprecated, and of addresses that are written in a doubtful way.
func (kind) Warnings(_ context.Context, obj, _ *corev1.Service) []string {
	var warnings []string
	warn := func(ok bool, format string, args ...any) {
		if ok {
			warnings = append(warnings, fmt.Sprintf(format, args...))
		}
	}
	spec, path := &obj.Spec, field.NewPath("spec")
	_, hinted := obj.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	warn(hinted, "annotation %s is deprecated, please use %s instead",
		corev1.DeprecatedAnnotationTopologyAwareHints, corev1.AnnotationTopologyMode)
	if spec.Type == corev1.ServiceTypeClusterIP && spec.ClusterIP == corev1.ClusterIPNone {
		warn(spec.LoadBalancerIP != "", "spec.loadBalancerIP is ignored for headless services")
		warn(len(spec.ExternalIPs) > 0, "spec.externalIPs is ignored for headless services")
		warn(spec.SessionAffinity != corev1.ServiceAffinityNone, "spec.SessionAffinity is ignored for headless services")
	}
	if wantsClusterIP(obj) && !headless(obj) {
		for i, ip := range spec.ClusterIPs {
			warnings = append(warnings, validation.GetWarningsForIP(path.Child("clusterIPs").Index(i), ip)...)
		}
	}
	for i, ip := range spec.ExternalIPs {
		warnings = append(warnings, validation.GetWarningsForIP(path.Child("externalIPs").Index(i), ip)...)
	}
	if spec.LoadBalancerIP != "" {
		warnings = append(warnings, validation.GetWarningsForIP(path.Child("loadBalancerIP"), spec.LoadBalancerIP)...)
	}
	for i, cidr := range spec.LoadBalancerSourceRanges {
		warnings = append(warnings,
			validation.GetWarningsForCIDR(path.Child("loadBalancerSourceRanges").Index(i), cidr)...)
	}
	external := spec.Type == corev1.ServiceTypeExternalName
	warn(external && len(spec.ExternalIPs) > 0, "spec.externalIPs is ignored when spec.type is %q",
		corev1.ServiceTypeExternalName)
	warn(!external && spec.ExternalName != "", "spec.externalName is ignored when spec.type is not %q",
		corev1.ServiceTypeExternalName)
	warn(spec.TrafficDistribution != nil &&
		*spec.TrafficDistribution == corev1.ServiceTrafficDistributionPreferClose,
		"spec.trafficDistribution: %q is deprecated; use %q",
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone)
	return warnings
}
