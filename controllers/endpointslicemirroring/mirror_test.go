package endpointslicemirroring

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func own(ips ...string) *corev1.Endpoints {
	e := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "db", UID: "u", Labels: map[string]string{"a": "b"}},
		Subsets: []corev1.EndpointSubset{{Ports: []corev1.EndpointPort{{Name: "sql", Port: 5432, Protocol: corev1.ProtocolTCP}}}}}
	for _, ip := range ips {
		e.Subsets[0].Addresses = append(e.Subsets[0].Addresses, corev1.EndpointAddress{IP: ip})
	}
	return e
}

// What was made is not made again, and follows the Endpoints.
func TestMirrorFollows(t *testing.T) {
	verbs := func(steps []step) string {
		var out []string
		for _, s := range steps {
			out = append(out, string(s.verb))
		}
		return strings.Join(out, " ")
	}
	var existing []*discoveryv1.EndpointSlice
	for _, tc := range []struct {
		want    string
		desired []*discoveryv1.EndpointSlice
	}{
		{"create create", mirror(own("192.0.2.5", "fd00::5"))},
		{"", mirror(own("192.0.2.5", "fd00::5"))},
		{"update", mirror(own("192.0.2.5", "192.0.2.6", "fd00::5"))},
		{"delete", mirror(own("192.0.2.5", "192.0.2.6"))},
		{"delete", nil},
	} {
		steps := plan(tc.desired, existing)
		if got := verbs(steps); got != tc.want {
			t.Errorf("steps are %q, want %q", got, tc.want)
		}
		existing = tc.desired
	}
	s := mirror(own("192.0.2.5"))[0]
	if s.Labels[discoveryv1.LabelServiceName] != "db" || s.Labels[discoveryv1.LabelManagedBy] != manager || s.Labels["a"] != "b" || *s.Ports[0].Port != 5432 {
		t.Errorf("mirrored as %+v", s)
	}
}
