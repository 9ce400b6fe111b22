package proxy

import (
	"fmt"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
)

// The kernel takes every rule that there can be, and a table that grows is extended.
func TestKernelTakesTheRules(t *testing.T) {
	var a nft.Applier
	s := newState()
	t.Cleanup(func() { nettest.Must(t, a.Delete("services_test")) })
	apply := func(changes []change) {
		t.Helper()
		nettest.Must(t, a.Apply(s.table("services_test", nets())))
		s.commit(changes)
	}
	apply(nil)
	svc := service("a", "10.96.1.1", func(svc *corev1.Service) {
		svc.Spec.Type = corev1.ServiceTypeLoadBalancer
		svc.Spec.Ports[0].NodePort = 30080
		svc.Spec.ExternalIPs = []string{"192.0.2.7"}
		svc.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
		svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
		svc.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24", "2001:db8::/32"}
		svc.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.8"}}
	})
	var eps []discoveryv1.Endpoint
	for i := range 20 {
		eps = append(eps, ep(fmt.Sprintf("10.244.%d.5", i), fmt.Sprintf("n%d", i), "rs"))
	}
	name := types.NamespacedName{Namespace: "ns", Name: "a"}
	for _, n := range []int{1, 20, 0, 3} {
		s.set(name, time.Time{}, frontends(svc, []*discoveryv1.EndpointSlice{slice(svc, 8080, eps[:n]...)}, here()))
		changes, grown := s.pending()
		if grown != (n == 1 || n == 20) {
			t.Errorf("with %d endpoints, chains grown: %t", n, grown)
		}
		if grown {
			apply(changes)
			continue
		}
		nettest.Must(t, a.Update("services_test", nft.Update{Elements: deltas(changes)}))
		s.commit(changes)
		// What the deltas made is what the whole table is.
		if err := a.Apply(s.table("services_test", nets())); err != nil {
			t.Fatal(err)
		}
	}
}
