package refusedports

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

func TestAnnotation(t *testing.T) {
	text := Format([]Port{{corev1.ProtocolUDP, 53}, {corev1.ProtocolTCP, 22}, {corev1.ProtocolTCP, 53}, {corev1.ProtocolTCP, 22}})
	if text != "TCP/22,TCP/53,UDP/53" || Format(nil) != "" {
		t.Errorf("the annotation is %q, and %q for none", text, Format(nil))
	}
	node := &corev1.Node{}
	for _, want := range []bool{false, true} {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 2}, {Protocol: corev1.ProtocolUDP, Port: 53}}}}
		if got := Refuses(node, svc); got != want {
			t.Errorf("%v: refused %t", node.Annotations, got)
		}
		node.Annotations = map[string]string{Annotation: text}
	}
}
