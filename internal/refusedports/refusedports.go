// Package refusedports is what nodes and the controller of load balancers have agreed upon. A Service of type LoadBalancer is
// answered at the nodes' own addresses, but for ports that a process of the node has: those the node names in an annotation of its
// Node object, and the controller leaves it out of the status of Services that want them.
package refusedports

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Annotation is, on a Node, its refused ports, such as "TCP/22,UDP/53"; it is missing where there are none.
const Annotation = "peapod.io/refused-ports"

// Ours says whether a Service is answered by nodes: one with a loadBalancerClass belongs to somebody else's controller.
func Ours(svc *corev1.Service) bool {
	return svc.Spec.Type == corev1.ServiceTypeLoadBalancer && svc.Spec.LoadBalancerClass == nil
}

// Port is one port of a node.
type Port struct {
	Protocol corev1.Protocol
	Number   uint16
}

func (p Port) String() string { return fmt.Sprintf("%s/%d", p.Protocol, p.Number) }

// Format returns the annotation's value for ports in any order.
func Format(ports []Port) string {
	texts := make([]string, len(ports))
	for i, p := range ports {
		texts[i] = p.String()
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), ",")
}

// Refuses says whether a node refuses any of the ports of a Service.
func Refuses(node *corev1.Node, svc *corev1.Service) bool {
	refused := strings.Split(node.Annotations[Annotation], ",")
	return slices.ContainsFunc(svc.Spec.Ports, func(p corev1.ServicePort) bool {
		return slices.Contains(refused, Port{p.Protocol, uint16(p.Port)}.String())
	})
}
