// Package serviceip is the contract of those who keep account of cluster IPs by API objects: that a Service has an address
// is told by an IPAddress of that name, where addresses come from by ServiceCIDRs. Names and labels are upstream's.
package serviceip

import (
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// Allocator marks, as the value of the label LabelManagedBy, the IPAddresses that belong to the cluster IPs of Services.
	Allocator = "ipallocator.k8s.io"
	// DefaultCIDR is the ServiceCIDR that every cluster has.
	DefaultCIDR = "kubernetes"
	// Finalizer keeps a ServiceCIDR as long as there are addresses that no other has.
	Finalizer = "networking.k8s.io/service-cidr-finalizer"
	// resource is how IPAddresses call Services.
	resource = "services"
)

// FamilyOf is the family of an address.
func FamilyOf(a netip.Addr) corev1.IPFamily {
	if a.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

// New is the IPAddress that says that the Service has a.
func New(a netip.Addr, service types.NamespacedName) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: a.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(FamilyOf(a)),
			networkingv1.LabelManagedBy:       Allocator,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{
			Resource: resource, Namespace: service.Namespace, Name: service.Name}},
	}
}

// Managed says whether the address was taken for a Service by the allocator.
func Managed(ip *networkingv1.IPAddress) bool {
	return ip.Labels[networkingv1.LabelManagedBy] == Allocator
}

// Labelled says whether the address has both labels that New gives it.
func Labelled(ip *networkingv1.IPAddress) bool {
	a, err := netip.ParseAddr(ip.Name)
	return err == nil && Managed(ip) && ip.Labels[networkingv1.LabelIPAddressFamily] == string(FamilyOf(a))
}

// Owner is the Service that has the address; false if something else has.
func Owner(ip *networkingv1.IPAddress) (types.NamespacedName, bool) {
	p := ip.Spec.ParentRef
	if p == nil || p.Group != "" || p.Resource != resource {
		return types.NamespacedName{}, false
	}
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, true
}

// Prefixes are the ranges of a ServiceCIDR.
func Prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var all []netip.Prefix
	for _, cidr := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(cidr); err == nil { // validation has seen to it
			all = append(all, p.Masked())
		}
	}
	return all
}

// Usable says whether Services may get addresses of the ServiceCIDR. One that nobody has said anything about is.
func Usable(c *networkingv1.ServiceCIDR) bool {
	if c.DeletionTimestamp != nil {
		return false
	}
	for _, condition := range c.Status.Conditions {
		if condition.Type == networkingv1.ServiceCIDRConditionReady {
			return condition.Status == metav1.ConditionTrue
		}
	}
	return true
}

// Contains says whether a is an address of the range that a Service may have: not the network's own and, in IPv4, not the
// broadcast address.
func Contains(p netip.Prefix, a netip.Addr) bool {
	if !p.Contains(a) || a == p.Masked().Addr() {
		return false
	}
	next := a.Next()
	return a.Is6() || next.IsValid() && p.Contains(next)
}
