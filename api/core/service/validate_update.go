package service

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	apivalidation "github.com/peapod/peapod/api/validation"
)

// ValidateUpdate checks what may change. The first address and family are there to stay, unless the Service becomes or
// was an ExternalName; a second one may come and go.
func (kind) ValidateUpdate(_ context.Context, obj, old *corev1.Service) field.ErrorList {
	spec := field.NewPath("spec")
	var errs field.ErrorList
	if wantsClusterIP(obj) && wantsClusterIP(old) {
		errs = append(errs, validateIPChange(obj, old, spec)...)
		errs = append(errs, validateFamilyChange(obj, old, spec)...)
	}
	if obj.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == corev1.ServiceTypeLoadBalancer &&
		!equal(obj.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(spec.Child("loadBalancerClass"), obj.Spec.LoadBalancerClass,
			"may not change once set"))
	}
	if wantsHealthCheckPort(obj) && wantsHealthCheckPort(old) &&
		obj.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(spec.Child("healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validate(obj, old)...)
}

func validateIPChange(obj, old *corev1.Service, spec *field.Path) field.ErrorList {
	if headless(obj) && headless(old) {
		return nil
	}
	ips, before, path := obj.Spec.ClusterIPs, old.Spec.ClusterIPs, spec.Child("clusterIPs")
	var errs field.ErrorList
	if len(ips) == len(before) {
		for i := range before {
			if ips[i] != before[i] {
				errs = append(errs, field.Invalid(path.Index(i), ips, "may not change once set"))
			}
		}
		return errs
	}
	if len(ips) == 0 {
		return append(errs, field.Invalid(path.Index(0), ips, "primary clusterIP can not be unset"))
	}
	if len(before) > 0 && ips[0] != before[0] {
		errs = append(errs, field.Invalid(path.Index(0), ips, "may not change once set"))
	}
	if len(before) > len(ips) && len(ips) == 1 && policy(obj) != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), obj.Spec.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary clusterIP"))
	}
	return errs
}

func validateFamilyChange(obj, old *corev1.Service, spec *field.Path) field.ErrorList {
	if headless(obj) || headless(old) {
		return nil
	}
	families, before, path := obj.Spec.IPFamilies, old.Spec.IPFamilies, spec.Child("ipFamilies").Index(0)
	var errs field.ErrorList
	if len(families) == len(before) {
		for i := range before {
			if families[i] != before[i] {
				errs = append(errs, field.Invalid(path, families, "may not change once set"))
			}
		}
		return errs
	}
	if len(before) > len(families) && len(obj.Spec.ClusterIPs) == 0 {
		errs = append(errs, field.Invalid(path, families, "primary ipFamily can not be unset"))
	}
	if len(families) > 0 && len(before) > 0 && families[0] != before[0] {
		errs = append(errs, field.Invalid(path, obj.Spec.ClusterIPs, "may not change once set"))
	}
	if len(before) > len(families) && len(families) == 1 && policy(obj) != corev1.IPFamilyPolicySingleStack {
		errs = append(errs, field.Invalid(spec.Child("ipFamilyPolicy"), obj.Spec.IPFamilyPolicy,
			"must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

// ValidateStatusUpdate checks the load balancer's addresses.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *corev1.Service) field.ErrorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	ingress := obj.Status.LoadBalancer.Ingress
	if obj.Spec.Type != corev1.ServiceTypeLoadBalancer && len(ingress) > 0 {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	var errs field.ErrorList
	for i := range ingress {
		errs = append(errs, validateIngress(&ingress[i], before, path.Index(i))...)
	}
	return errs
}

func validateIngress(in *corev1.LoadBalancerIngress, before []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	mode := path.Child("ipMode")
	if in.IP != "" {
		errs = append(errs, validation.IsValidIPForLegacyField(path.Child("ip"), in.IP, true, before)...)
		if in.IPMode == nil {
			errs = append(errs, field.Required(mode, "must be specified when `ip` is set"))
		}
	} else if in.IPMode != nil {
		errs = append(errs, field.Forbidden(mode, "may not be specified when `ip` is not set"))
	}
	if in.IPMode != nil {
		errs = append(errs, apivalidation.Supported(*in.IPMode, mode,
			corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
	}
	if in.Hostname != "" {
		errs = append(errs, apivalidation.DNSSubdomain(in.Hostname, path.Child("hostname"))...)
		if netutils.ParseIPSloppy(in.Hostname) != nil {
			errs = append(errs, field.Invalid(path.Child("hostname"), in.Hostname,
				"must be a DNS name, not an IP address"))
		}
	}
	return errs
}
