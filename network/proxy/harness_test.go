package proxy

import (
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/network/nettest"
)

func TestMain(m *testing.M) { nettest.Main(m) }

// service is a Service "ns/name" with one TCP port 80 and what change does to it.
func service(name, ip string, change func(*corev1.Service)) *corev1.Service {
	svc := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec: corev1.ServiceSpec{
			Type: corev1.ServiceTypeClusterIP, ClusterIP: ip, ClusterIPs: []string{ip}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP}},
		},
	}
	if change != nil {
		change(svc)
	}
	return svc
}

const testNode = "n1"

// ep is an endpoint on a node with the conditions that letters name: r ready, s serving, t terminating.
func ep(addr, node, conditions string) discoveryv1.Endpoint {
	has := func(c byte) *bool {
		for i := range conditions {
			if conditions[i] == c {
				return ptr.To(true)
			}
		}
		return ptr.To(false)
	}
	return discoveryv1.Endpoint{Addresses: []string{addr}, NodeName: ptr.To(node),
		Conditions: discoveryv1.EndpointConditions{Ready: has('r'), Serving: has('s'), Terminating: has('t')}}
}

// slice holds the endpoints of a Service's port 80.
func slice(svc *corev1.Service, port int32, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: svc.Namespace, Name: svc.Name, Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}},
		AddressType: discoveryv1.AddressTypeIPv4, Endpoints: endpoints,
	}
	for i := range svc.Spec.Ports {
		p := svc.Spec.Ports[i]
		s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Protocol: &p.Protocol, Port: ptr.To(port)})
	}
	return s
}

func here() *where {
	return &where{node: testNode, own: map[netip.Addr]bool{netip.MustParseAddr("10.96.0.10"): true}, pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/16")},
		addresses: map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true}, reserved: map[uint16]bool{6443: true}}
}

func nets() *Networks {
	return &Networks{Service: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")},
		Pods: []netip.Prefix{netip.MustParsePrefix("10.244.0.0/24"), netip.MustParsePrefix("fd00:244::/64")}}
}
