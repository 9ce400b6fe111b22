package service

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	apivalidation "github.com/peapod/peapod/api/validation"
)

// maxAffinitySeconds is a day.
const maxAffinitySeconds = 86400

// Validate checks a new Service, after it has been given its addresses.
func (kind) Validate(_ context.Context, obj *corev1.Service) field.ErrorList {
	return validate(obj, nil)
}

// validate checks obj as it would be stored. old is nil on create; addresses that it already had are taken as they are
// even where the rules have become stricter since.
func validate(obj, old *corev1.Service) field.ErrorList {
	spec, path := &obj.Spec, field.NewPath("spec")
	errs := validateTopologyAnnotations(obj.Annotations)
	if len(spec.Ports) == 0 && !headless(obj) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	errs = append(errs, validateForType(obj, path)...)
	names := sets.Set[string]{}
	for i := range spec.Ports {
		errs = append(errs, validatePort(&spec.Ports[i], len(spec.Ports) > 1, names, path.Child("ports").Index(i))...)
	}
	if spec.Selector != nil {
		errs = append(errs, apivalidation.Labels(spec.Selector, path.Child("selector"))...)
	}
	errs = append(errs, validateAffinity(spec, path)...)
	errs = append(errs, validateClusterIPs(obj, old)...)
	errs = append(errs, validateExternalIPs(obj, old, path.Child("externalIPs"))...)
	errs = append(errs, apivalidation.Enum(spec.Type, path.Child("type"), corev1.ServiceTypeClusterIP,
		corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, validatePortsTogether(spec, path.Child("ports"))...)
	errs = append(errs, validateSourceRanges(obj, old, path)...)
	errs = append(errs, validateLoadBalancer(obj, path)...)
	return append(errs, validateTraffic(obj, path)...)
}

func validateTopologyAnnotations(annotations map[string]string) field.ErrorList {
	hints, hinted := annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	mode, moded := annotations[corev1.AnnotationTopologyMode]
	if !hinted || !moded || hints == mode {
		return nil
	}
	return field.ErrorList{field.Invalid(
		field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
		fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints))}
}

// validateForType checks what the type rules out or asks for.
func validateForType(obj *corev1.Service, path *field.Path) field.ErrorList {
	spec := &obj.Spec
	var errs field.ErrorList
	switch spec.Type {
	case corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort:
		if headless(obj) {
			errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs[0],
				fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
		}
	case corev1.ServiceTypeExternalName:
		forbidden := func(name string, set bool) {
			if set {
				errs = append(errs, field.Forbidden(path.Child(name), "may not be set for ExternalName services"))
			}
		}
		forbidden("clusterIPs", len(spec.ClusterIPs) > 0)
		forbidden("ipFamilies", len(spec.IPFamilies) > 0)
		forbidden("ipFamilyPolicy", spec.IPFamilyPolicy != nil)
		// A trailing dot marks the name as complete.
		if name := strings.TrimSuffix(spec.ExternalName, "."); name == "" {
			errs = append(errs, field.Required(path.Child("externalName"), ""))
		} else {
			errs = append(errs, apivalidation.DNSSubdomain(name, path.Child("externalName"))...)
		}
	}
	return errs
}

func validatePort(p *corev1.ServicePort, named bool, names sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	switch {
	case p.Name != "":
		errs = append(errs, apivalidation.DNSLabel(p.Name, path.Child("name"))...)
		if names.Has(p.Name) {
			errs = append(errs, field.Duplicate(path.Child("name"), p.Name))
		}
		names.Insert(p.Name)
	case named:
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, apivalidation.PortNumber(p.Port, path.Child("port"))...)
	errs = append(errs, apivalidation.Enum(p.Protocol, path.Child("protocol"),
		corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	errs = append(errs, apivalidation.PortNumberOrName(p.TargetPort, path.Child("targetPort"))...)
	if p.AppProtocol != nil {
		errs = append(errs, apivalidation.QualifiedName(*p.AppProtocol, path.Child("appProtocol"))...)
	}
	return errs
}

// validatePortsTogether checks that no port and no node port is there twice.
func validatePortsTogether(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Type == corev1.ServiceTypeClusterIP {
		for i, p := range spec.Ports {
			if p.NodePort != 0 {
				errs = append(errs, field.Forbidden(path.Index(i).Child("nodePort"),
					"may not be used when `type` is 'ClusterIP'"))
			}
		}
	}
	type key struct {
		protocol corev1.Protocol
		number   int32
	}
	seen := make(map[key]bool)
	for i, p := range spec.Ports {
		if p.NodePort == 0 {
			continue
		}
		if seen[key{p.Protocol, p.NodePort}] {
			errs = append(errs, field.Duplicate(path.Index(i).Child("nodePort"), p.NodePort))
		}
		seen[key{p.Protocol, p.NodePort}] = true
	}
	clear(seen)
	for i, p := range spec.Ports {
		if seen[key{p.Protocol, p.Port}] {
			errs = append(errs, field.Duplicate(path.Index(i),
				corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		}
		seen[key{p.Protocol, p.Port}] = true
	}
	return errs
}

func validateAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := apivalidation.Enum(spec.SessionAffinity, path.Child("sessionAffinity"),
		corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	config, at := spec.SessionAffinityConfig, path.Child("sessionAffinityConfig")
	switch spec.SessionAffinity {
	case corev1.ServiceAffinityNone:
		if config != nil {
			errs = append(errs, field.Forbidden(at,
				fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
		}
	case corev1.ServiceAffinityClientIP:
		why := fmt.Sprintf("when session affinity type is %s", corev1.ServiceAffinityClientIP)
		switch {
		case config == nil:
			errs = append(errs, field.Required(at, why))
		case config.ClientIP == nil:
			errs = append(errs, field.Required(at.Child("clientIP"), why))
		case config.ClientIP.TimeoutSeconds == nil:
			errs = append(errs, field.Required(at.Child("clientIP", "timeoutSeconds"), why))
		default:
			if s := *config.ClientIP.TimeoutSeconds; s <= 0 || s > maxAffinitySeconds {
				errs = append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), s,
					fmt.Sprintf("must be greater than 0 and less than %d", maxAffinitySeconds)))
			}
		}
	}
	return errs
}

func validateExternalIPs(obj, old *corev1.Service, path *field.Path) field.ErrorList {
	var before []string
	if old != nil {
		before = old.Spec.ExternalIPs
	}
	var errs field.ErrorList
	for i, ip := range obj.Spec.ExternalIPs {
		bad := validation.IsValidIPForLegacyField(path.Index(i), ip, true, before)
		if len(bad) == 0 {
			bad = apivalidation.EndpointIP(ip, path.Index(i))
		}
		errs = append(errs, bad...)
	}
	return errs
}

// validateSourceRanges checks the field, or the annotation that it replaced. Blanks around a range are tolerated.
func validateSourceRanges(obj, old *corev1.Service, spec *field.Path) field.ErrorList {
	var errs field.ErrorList
	balanced := func(path *field.Path) {
		if obj.Spec.Type != corev1.ServiceTypeLoadBalancer {
			errs = append(errs, field.Forbidden(path, "may only be used when `type` is 'LoadBalancer'"))
		}
	}
	if len(obj.Spec.LoadBalancerSourceRanges) > 0 {
		path := spec.Child("LoadBalancerSourceRanges")
		balanced(path)
		var before []string
		if old != nil {
			for _, cidr := range old.Spec.LoadBalancerSourceRanges {
				before = append(before, strings.TrimSpace(cidr))
			}
		}
		for i, cidr := range obj.Spec.LoadBalancerSourceRanges {
			errs = append(errs, validation.IsValidCIDRForLegacyField(path.Index(i), strings.TrimSpace(cidr), true, before)...)
		}
		return errs
	}
	value, ok := obj.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !ok {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	balanced(path)
	if old != nil && old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] == value {
		return errs
	}
	if value = strings.TrimSpace(value); value != "" {
		for _, cidr := range strings.Split(value, ",") {
			errs = append(errs, validation.IsValidCIDRForLegacyField(path, strings.TrimSpace(cidr), true, nil)...)
		}
	}
	return errs
}

func validateLoadBalancer(obj *corev1.Service, path *field.Path) field.ErrorList {
	spec := &obj.Spec
	const only = "may only be used when `type` is 'LoadBalancer'"
	var errs field.ErrorList
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		if spec.AllocateLoadBalancerNodePorts == nil {
			errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
		}
		if spec.LoadBalancerClass != nil {
			errs = append(errs, apivalidation.QualifiedName(*spec.LoadBalancerClass, path.Child("loadBalancerClass"))...)
		}
		return errs
	}
	if spec.AllocateLoadBalancerNodePorts != nil {
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), only))
	}
	if spec.LoadBalancerClass != nil {
		errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), only))
	}
	return errs
}

// validateTraffic checks the policies of where traffic goes.
func validateTraffic(obj *corev1.Service, path *field.Path) field.ErrorList {
	spec := &obj.Spec
	var errs field.ErrorList
	external := path.Child("externalTrafficPolicy")
	if externallyAccessible(obj) {
		errs = append(errs, apivalidation.Enum(spec.ExternalTrafficPolicy, external,
			corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(external, spec.ExternalTrafficPolicy,
			"may only be set for externally-accessible services"))
	}
	health := path.Child("healthCheckNodePort")
	switch {
	case !wantsHealthCheckPort(obj):
		if spec.HealthCheckNodePort != 0 {
			errs = append(errs, field.Invalid(health, spec.HealthCheckNodePort,
				"may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
		}
	case spec.HealthCheckNodePort == 0:
		errs = append(errs, field.Required(health, ""))
	default:
		errs = append(errs, apivalidation.PortNumber(spec.HealthCheckNodePort, health)...)
	}
	internal := path.Child("internalTrafficPolicy")
	if spec.InternalTrafficPolicy == nil {
		switch spec.Type {
		case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort, corev1.ServiceTypeLoadBalancer:
			errs = append(errs, field.Required(internal, ""))
		}
	}
	errs = append(errs, apivalidation.OptionalEnum(spec.InternalTrafficPolicy, internal,
		corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	return append(errs, apivalidation.OptionalEnum(spec.TrafficDistribution, path.Child("trafficDistribution"),
		corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone,
		corev1.ServiceTrafficDistributionPreferSameNode)...)
}
