package loadbalancer

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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
