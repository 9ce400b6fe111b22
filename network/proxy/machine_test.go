package proxy_test

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/informers"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/proxy"
)

const (
	table     = "peapod_test_services"
	self      = "here"
	elsewhere = "elsewhere"
	host4     = "192.0.2.1"
	host6     = "2001:db8::1"
	world4    = "192.0.2.2"
	world6    = "2001:db8::2"
	gateway4  = "10.244.3.1"
	gateway6  = "fd00:244:3::1"
)

var serviceNets = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16"), netip.MustParsePrefix("fd00:96::/112")}

// machine is a node with Pods and the service proxy, an API server whose EndpointSlices the test writes, and a world outside.
type machine struct{ *nettest.Machine }

func newMachine(t *testing.T) *machine {
	t.Helper()
	server := servertest.Start(t, func(c *apiserver.Config) { c.ServiceCIDRs = serviceNets })
	m := &machine{nettest.NewMachine(t, server.Client(t), func() error { return proxy.Uninstall(table, serviceNets) })}
	m.start()
	return m
}

// start runs a proxy, as a new process would.
func (m *machine) start() {
	m.Helper()
	m.Start(func(factory informers.SharedInformerFactory) (interface{ Run(context.Context) error }, error) {
		return proxy.New(proxy.Config{
			Table: table, NodeName: self, NodeIPs: []netip.Addr{netip.MustParseAddr(host4), netip.MustParseAddr(host6)},
			Networks: proxy.Networks{Service: serviceNets, Pods: nettest.PodNets}, Informers: factory,
		})
	})
}

// at is an endpoint of a Pod on a node.
func at(p *nettest.Pod, node string) end { return end{p.V4, p.V6, node, true} }

// end is an endpoint in both families.
type end struct {
	v4, v6, node string
	ready        bool
}

// service makes a Service of both families with port 80, of TCP and UDP, that lead to port 8080.
func (m *machine) service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	m.Helper()
	spec := corev1.ServiceSpec{
		IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicyRequireDualStack),
		Ports: []corev1.ServicePort{
			{Name: "tcp", Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolTCP},
			{Name: "udp", Port: 80, TargetPort: intstr.FromInt32(8080), Protocol: corev1.ProtocolUDP},
		},
	}
	if change != nil {
		change(&spec)
	}
	svc, err := m.API.CoreV1().Services("default").Create(m.Context(),
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
	nettest.Must(m, err)
	return svc
}

// endpoints makes these the endpoints of a Service, and no others.
func (m *machine) endpoints(svc *corev1.Service, ends ...end) {
	m.Helper()
	slices := m.API.DiscoveryV1().EndpointSlices(svc.Namespace)
	for _, family := range []discoveryv1.AddressType{discoveryv1.AddressTypeIPv4, discoveryv1.AddressTypeIPv6} {
		s := &discoveryv1.EndpointSlice{AddressType: family, ObjectMeta: metav1.ObjectMeta{
			Name: fmt.Sprintf("%s-%c", svc.Name, family[3]), Labels: map[string]string{discoveryv1.LabelServiceName: svc.Name}}}
		for _, p := range svc.Spec.Ports {
			s.Ports = append(s.Ports, discoveryv1.EndpointPort{Name: ptr.To(p.Name), Protocol: ptr.To(p.Protocol), Port: ptr.To(p.TargetPort.IntVal)})
		}
		for _, e := range ends {
			address := e.v4
			if family == discoveryv1.AddressTypeIPv6 {
				address = e.v6
			}
			s.Endpoints = append(s.Endpoints, discoveryv1.Endpoint{Addresses: []string{address}, NodeName: ptr.To(e.node),
				Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(e.ready)}})
		}
		_, err := slices.Update(m.Context(), s, metav1.UpdateOptions{})
		if err != nil {
			_, err = slices.Create(m.Context(), s, metav1.CreateOptions{})
		}
		nettest.Must(m, err)
	}
}

// answers waits until a listener of that name answers whoever asks.
func (m *machine) answers(ns *nettest.Namespace, proto, address, by string) {
	m.Helper()
	m.Rules.Until(fmt.Sprintf("%s %s is answered by %s", proto, address, by), func() error {
		a, err := nettest.Ask(ns, proto, address)
		if err == nil && a.By != by {
			err = fmt.Errorf("%s answers", a.By)
		}
		return err
	})
}

// elements counts what is in the proxy's table.
func (m *machine) elements() map[string]int {
	m.Helper()
	counts, err := nettest.Elements(table)
	nettest.Must(m, err)
	return counts
}
