package loadbalancer

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/internal/refusedports"
)

func TestOlderServiceHasThePort(t *testing.T) {
	now := time.Now()
	svc := func(name string, age time.Duration, protocol corev1.Protocol, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(now.Add(-age))},
			Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: port, Protocol: protocol}}}}
	}
	young, old := svc("a", 0, corev1.ProtocolTCP, 80), svc("b", time.Hour, corev1.ProtocolTCP, 80)
	other, udp := svc("c", 0, corev1.ProtocolTCP, 81), svc("d", 0, corev1.ProtocolUDP, 80)
	got := assign([]*corev1.Service{young, old, other, udp})
	if got[young] || !got[old] || !got[other] || !got[udp] {
		t.Errorf("assigned %t %t %t %t", got[young], got[old], got[other], got[udp])
	}
}

// The status names the addresses of the Service's families, but of nodes that refuse one of its ports none.
func TestIngressOfNodes(t *testing.T) {
	node := func(refused string, addresses ...string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{refusedports.Annotation: refused}}}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	excluded := node("", "192.0.2.9")
	excluded.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	nodes := []*corev1.Node{node("TCP/81,UDP/80", "192.0.2.2", "2001:db8::2"), node("", "192.0.2.1"), node("TCP/22,TCP/80", "192.0.2.3"), excluded}
	for _, c := range []struct {
		want  string
		ports []corev1.ServicePort
	}{
		{"192.0.2.1 192.0.2.2", []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}},
		{"192.0.2.1", []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}, {Protocol: corev1.ProtocolTCP, Port: 81}}},
		{"192.0.2.1 192.0.2.3", []corev1.ServicePort{{Protocol: corev1.ProtocolUDP, Port: 80}}},
		{"192.0.2.1 192.0.2.2 192.0.2.3", []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 8}}},
	} {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: c.ports}}
		var got []string
		for _, in := range ingress(svc, nodes).Ingress {
			got = append(got, in.IP)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("ports %v: %v, want %s", c.ports, got, c.want)
		}
	}
}
