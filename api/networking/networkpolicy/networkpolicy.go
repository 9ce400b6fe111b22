// Package networkpolicy declares networking.k8s.io/v1 NetworkPolicy.
package networkpolicy

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[networkingv1.NetworkPolicy](resource.Declaration{
		GVK:        networkingv1.SchemeGroupVersion.WithKind("NetworkPolicy"),
		Plural:     "networkpolicies",
		ShortNames: []string{"netpol"},
		Namespaced: true,
		Generation: true,
	}, func() runtime.Object { return &networkingv1.NetworkPolicyList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*networkingv1.NetworkPolicy]       = kind{}
	_ resource.Validator[*networkingv1.NetworkPolicy]       = kind{}
	_ resource.UpdateValidator[*networkingv1.NetworkPolicy] = kind{}
	_ resource.Printer[*networkingv1.NetworkPolicy]         = kind{}
)

// Default fills in the protocol of ports, and the directions: ingress always, egress where there are rules for it.
func (kind) Default(obj *networkingv1.NetworkPolicy) {
	defaultPorts := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	}
	for i := range obj.Spec.Ingress {
		defaultPorts(obj.Spec.Ingress[i].Ports)
	}
	for i := range obj.Spec.Egress {
		defaultPorts(obj.Spec.Egress[i].Ports)
	}
	if len(obj.Spec.PolicyTypes) == 0 {
		obj.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(obj.Spec.Egress) > 0 {
			obj.Spec.PolicyTypes = append(obj.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
}

// checker checks a policy. anyValue lets selectors keep values that no label can have; cidrs are the blocks that may stay
// as they are written.
type checker struct {
	anyValue bool
	cidrs    []string
}

// Validate checks a new policy.
func (kind) Validate(_ context.Context, obj *networkingv1.NetworkPolicy) field.ErrorList {
	return checker{}.spec(&obj.Spec, field.NewPath("spec"))
}

// ValidateUpdate tolerates what was accepted under older rules.
func (kind) ValidateUpdate(_ context.Context, obj, old *networkingv1.NetworkPolicy) field.ErrorList {
	c := checker{anyValue: len(v.LabelSelector(&old.Spec.PodSelector, false, nil)) > 0}
	take := func(peers []networkingv1.NetworkPolicyPeer) {
		for _, p := range peers {
			if p.IPBlock != nil {
				c.cidrs = append(append(c.cidrs, p.IPBlock.CIDR), p.IPBlock.Except...)
			}
		}
	}
	for _, rule := range old.Spec.Ingress {
		take(rule.From)
	}
	for _, rule := range old.Spec.Egress {
		take(rule.To)
	}
	return c.spec(&obj.Spec, field.NewPath("spec"))
}

func (c checker) spec(s *networkingv1.NetworkPolicySpec, path *field.Path) field.ErrorList {
	errs := v.LabelSelector(&s.PodSelector, c.anyValue, path.Child("podSelector"))
	for i := range s.Ingress {
		at := path.Child("ingress").Index(i)
		errs = append(errs, ports(s.Ingress[i].Ports, at.Child("ports"))...)
		errs = append(errs, c.peers(s.Ingress[i].From, at.Child("from"))...)
	}
	for i := range s.Egress {
		at := path.Child("egress").Index(i)
		errs = append(errs, ports(s.Egress[i].Ports, at.Child("ports"))...)
		errs = append(errs, c.peers(s.Egress[i].To, at.Child("to"))...)
	}
	types := path.Child("policyTypes")
	if len(s.PolicyTypes) > 2 {
		return append(errs, field.Invalid(types, s.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, t := range s.PolicyTypes {
		errs = append(errs, v.Supported(t, types.Index(i), networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress)...)
	}
	return errs
}

func ports(list []networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, port(&list[i], path.Index(i))...)
	}
	return errs
}

// port checks a port, by number or by name, or a range of them, by numbers.
func port(p *networkingv1.NetworkPolicyPort, path *field.Path) field.ErrorList {
	errs := v.OptionalEnum(p.Protocol, path.Child("protocol"), corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP)
	end := path.Child("endPort")
	switch {
	case p.Port == nil:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is not specified"))
		}
	case p.Port.Type == intstr.String:
		if p.EndPort != nil {
			errs = append(errs, field.Invalid(end, *p.EndPort, "may not be specified when `port` is non-numeric"))
		}
		errs = append(errs, v.Messages(validation.IsValidPortName(p.Port.StrVal), p.Port.StrVal, path.Child("port"))...)
	default:
		errs = append(errs, v.PortNumber(p.Port.IntVal, path.Child("port"))...)
		if p.EndPort != nil {
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(end, p.Port.IntVal, "must be greater than or equal to `port`"))
			}
			errs = append(errs, v.PortNumber(*p.EndPort, end)...)
		}
	}
	return errs
}

func (c checker) peers(list []networkingv1.NetworkPolicyPeer, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		p, at := &list[i], path.Index(i)
		selects := p.PodSelector != nil || p.NamespaceSelector != nil
		errs = append(errs, v.LabelSelector(p.PodSelector, c.anyValue, at.Child("podSelector"))...)
		errs = append(errs, v.LabelSelector(p.NamespaceSelector, c.anyValue, at.Child("namespaceSelector"))...)
		if p.IPBlock != nil {
			errs = append(errs, c.block(p.IPBlock, at.Child("ipBlock"))...)
		}
		switch {
		case !selects && p.IPBlock == nil:
			errs = append(errs, field.Required(at, "must specify a peer"))
		case selects && p.IPBlock != nil:
			errs = append(errs, field.Forbidden(at, "may not specify both ipBlock and another peer"))
		}
	}
	return errs
}

// block checks a block of addresses and the smaller ones that are taken out of it.
func (c checker) block(b *networkingv1.IPBlock, path *field.Path) field.ErrorList {
	at := path.Child("cidr")
	if b.CIDR == "" {
		return field.ErrorList{field.Required(at, "")}
	}
	errs := validation.IsValidCIDRForLegacyField(at, b.CIDR, true, c.cidrs)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil { // Reported already.
		return errs
	}
	for i, text := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, text, true, c.cidrs)...)
		_, part, err := netutils.ParseCIDRSloppy(text)
		if err != nil { // Reported already.
			continue
		}
		wholeBits, _ := whole.Mask.Size()
		partBits, _ := part.Mask.Size()
		if !whole.Contains(part.IP) || wholeBits >= partBits {
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}

// Columns are those of `kubectl get networkpolicies`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *networkingv1.NetworkPolicy) ([]any, error) {
	return []any{obj.Name, metav1.FormatLabelSelector(&obj.Spec.PodSelector), table.Since(obj.CreationTimestamp)}, nil
}
