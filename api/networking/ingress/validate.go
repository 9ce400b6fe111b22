package ingress

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/peapod/peapod/api/networking/reference"
	v "github.com/peapod/peapod/api/validation"
)

const notAnAddress = "must be a DNS name, not an IP address"

// checker checks an Ingress. What was accepted under older rules may stay: names of secrets that are none, and whatever
// stands in rules for wildcards.
type checker struct{ anySecret, anyWildcardRule bool }

// Validate checks a new Ingress.
func (kind) Validate(_ context.Context, obj *networkingv1.Ingress) field.ErrorList {
	errs := checker{}.spec(&obj.Spec, field.NewPath("spec"))
	class, annotated := obj.Annotations[classAnnotation]
	if name := obj.Spec.IngressClassName; annotated && name != nil && *name != class {
		errs = append(errs, field.Invalid(field.NewPath("annotations").Child(classAnnotation), class,
			"must match `ingressClassName` when both are specified"))
	}
	return errs
}

// ValidateUpdate checks a changed Ingress.
func (kind) ValidateUpdate(_ context.Context, obj, old *networkingv1.Ingress) field.ErrorList {
	var c checker
	for _, t := range old.Spec.TLS {
		c.anySecret = c.anySecret || len(secretName(t.SecretName)) > 0
	}
	for _, r := range old.Spec.Rules {
		c.anyWildcardRule = c.anyWildcardRule || strings.Contains(r.Host, "*") && len(http(r.HTTP, nil)) > 0
	}
	return c.spec(&obj.Spec, field.NewPath("spec"))
}

func (c checker) spec(s *networkingv1.IngressSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(s.Rules) == 0 && s.DefaultBackend == nil {
		errs = append(errs, field.Invalid(path, s.Rules, "either `defaultBackend` or `rules` must be specified"))
	}
	if s.DefaultBackend != nil {
		errs = append(errs, backend(s.DefaultBackend, path.Child("defaultBackend"))...)
	}
	for i := range s.Rules {
		rule, at := &s.Rules[i], path.Child("rules").Index(i)
		errs = append(errs, host(rule.Host, at.Child("host"))...)
		if !strings.Contains(rule.Host, "*") || !c.anyWildcardRule {
			errs = append(errs, http(rule.HTTP, at.Child("http"))...)
		}
	}
	for i, t := range s.TLS {
		at := path.Child("tls").Index(i)
		for j, name := range t.Hosts {
			errs = append(errs, hostName(name, at.Child("hosts").Index(j))...)
		}
		if !c.anySecret {
			errs = append(errs, v.Messages(secretName(t.SecretName), t.SecretName, at.Child("secretName"))...)
		}
	}
	if s.IngressClassName != nil {
		errs = append(errs, v.ObjectName(*s.IngressClassName, path.Child("ingressClassName"))...)
	}
	return errs
}

// secretName returns what is wrong with the name, which may be left out.
func secretName(name string) []string {
	if name == "" {
		return nil
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

func host(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return nil
	}
	var errs field.ErrorList
	if netutils.ParseIPSloppy(name) != nil {
		errs = append(errs, field.Invalid(path, name, notAnAddress))
	}
	return append(errs, hostName(name, path)...)
}

func hostName(name string, path *field.Path) field.ErrorList {
	if strings.Contains(name, "*") {
		return v.Messages(validation.IsWildcardDNS1123Subdomain(name), name, path)
	}
	return v.DNSSubdomain(name, path)
}

func http(rule *networkingv1.HTTPIngressRuleValue, path *field.Path) field.ErrorList {
	if rule == nil {
		return nil
	}
	var errs field.ErrorList
	paths := path.Child("paths")
	if len(rule.Paths) == 0 {
		errs = append(errs, field.Required(paths, ""))
	}
	for i := range rule.Paths {
		errs = append(errs, httpPath(&rule.Paths[i], paths.Index(i))...)
	}
	return errs
}

func httpPath(p *networkingv1.HTTPIngressPath, path *field.Path) field.ErrorList {
	if p.PathType == nil {
		return field.ErrorList{field.Required(path.Child("pathType"), "pathType must be specified")}
	}
	at := path.Child("path")
	errs := v.Supported(*p.PathType, path.Child("pathType"),
		networkingv1.PathTypeExact, networkingv1.PathTypeImplementationSpecific, networkingv1.PathTypePrefix)
	specific := *p.PathType == networkingv1.PathTypeImplementationSpecific
	if len(errs) == 0 && !strings.HasPrefix(p.Path, "/") && !(specific && p.Path == "") {
		errs = append(errs, field.Invalid(at, p.Path, "must be an absolute path"))
	}
	if *p.PathType == networkingv1.PathTypeExact || *p.PathType == networkingv1.PathTypePrefix {
		for _, part := range []string{"//", "/./", "/../", "%2f", "%2F"} {
			if strings.Contains(p.Path, part) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("must not contain '%s'", part)))
			}
		}
		for _, end := range []string{"/..", "/."} {
			if strings.HasSuffix(p.Path, end) {
				errs = append(errs, field.Invalid(at, p.Path, fmt.Sprintf("cannot end with '%s'", end)))
			}
		}
	}
	return append(errs, backend(&p.Backend, path.Child("backend"))...)
}

func backend(b *networkingv1.IngressBackend, path *field.Path) field.ErrorList {
	switch {
	case b.Resource != nil && b.Service != nil:
		return field.ErrorList{field.Invalid(path, "", "cannot set both resource and service backends")}
	case b.Resource != nil:
		return reference.Validate(b.Resource, path.Child("resource"))
	case b.Service == nil:
		return field.ErrorList{field.Invalid(path, "", "resource or service backend is required")}
	}
	service := path.Child("service")
	errs := v.Required(b.Service.Name, service.Child("name"))
	if b.Service.Name != "" {
		errs = append(errs, v.Messages(apivalidation.NameIsDNS1035Label(b.Service.Name, false), b.Service.Name, service.Child("name"))...)
	}
	name, number := b.Service.Port.Name, b.Service.Port.Number
	switch {
	case name != "" && number != 0:
		errs = append(errs, field.Invalid(path, "", "cannot set both port name & port number"))
	case name != "":
		errs = append(errs, v.Messages(validation.IsValidPortName(name), name, service.Child("port", "name"))...)
	case number != 0:
		errs = append(errs, v.PortNumber(number, service.Child("port", "number"))...)
	default:
		errs = append(errs, field.Required(path, "port name or number is required"))
	}
	return errs
}

// ValidateStatusUpdate checks the addresses and ports of the load balancer.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *networkingv1.Ingress) field.ErrorList {
	var errs field.ErrorList
	var before []string
	for _, in := range old.Status.LoadBalancer.Ingress {
		before = append(before, in.IP)
	}
	for i, in := range obj.Status.LoadBalancer.Ingress {
		at := field.NewPath("status", "loadBalancer", "ingress").Index(i)
		if in.IP != "" {
			errs = append(errs, validation.IsValidIPForLegacyField(at.Child("ip"), in.IP, true, before)...)
		}
		if in.Hostname != "" {
			errs = append(errs, v.DNSSubdomain(in.Hostname, at.Child("hostname"))...)
			if netutils.ParseIPSloppy(in.Hostname) != nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, notAnAddress))
			}
		}
		for j, p := range in.Ports {
			errs = append(errs, v.Supported(p.Protocol, at.Child("ports").Index(j).Child("protocol"),
				corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
		}
	}
	return errs
}
