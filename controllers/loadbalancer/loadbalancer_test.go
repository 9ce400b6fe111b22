package loadbalancer

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

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
	made := 0
	node := func(refused string, addresses ...string) *corev1.Node {
		made++
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", made), Annotations: map[string]string{refusedports.Annotation: refused}}}
		for _, a := range addresses {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: a})
		}
		return n
	}
	excluded := node("", "192.0.2.9")
	excluded.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""}
	deleted, tainted := node("", "192.0.2.10"), node("", "192.0.2.11")
	deleted.DeletionTimestamp = &metav1.Time{Time: time.Now()}
	tainted.Spec.Taints = []corev1.Taint{{Key: "ToBeDeletedByClusterAutoscaler", Effect: corev1.TaintEffectNoSchedule}}
	goes := []*corev1.Node{excluded, deleted, tainted}
	var p pool
	// Two nodes behind one address refuse it together only.
	for _, n := range []*corev1.Node{node("TCP/81,UDP/80", "192.0.2.2", "2001:db8::2"), node("", "192.0.2.1"), node("TCP/22,TCP/80", "192.0.2.3"), excluded, deleted, tainted,
		node("TCP/80,TCP/81", "192.0.2.4"), node("TCP/81", "192.0.2.4")} {
		if !p.set(n) && !slices.Contains(goes, n) || p.set(n) {
			t.Errorf("%s counts for nothing, or twice", n.Name)
		}
	}
	for _, c := range []struct {
		want  string
		ports []corev1.ServicePort
	}{
		{"192.0.2.1 192.0.2.2 192.0.2.4", []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}},
		{"192.0.2.1", []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}, {Protocol: corev1.ProtocolTCP, Port: 81}}},
		{"192.0.2.1 192.0.2.3 192.0.2.4", []corev1.ServicePort{{Protocol: corev1.ProtocolUDP, Port: 80}}},
		{"192.0.2.1 192.0.2.2 192.0.2.3 192.0.2.4", []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 8}}},
	} {
		svc := &corev1.Service{Spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Ports: c.ports}}
		var got []string
		for _, in := range p.ingress(svc, nil).Ingress {
			got = append(got, in.IP)
		}
		if strings.Join(got, " ") != c.want {
			t.Errorf("ports %v: %v, want %s", c.ports, got, c.want)
		}
	}
}

// A status stays small however many nodes there are, and the same when nodes change that it does not name.
func TestIngressIsBounded(t *testing.T) {
	var p pool
	svc := &corev1.Service{Spec: corev1.ServiceSpec{IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol},
		Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}}}}
	node := func(i int) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("10.0.%d.%d", 100+i/100, 100+i%100)},
			{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("fd00::%x", 0x1000+i)},
		}}}
	}
	for i := range 5000 {
		p.set(node(i))
	}
	full := p.ingress(svc, nil)
	if len(full.Ingress) != 2*maxAddresses || full.Ingress[0].IP != "10.0.100.100" {
		t.Fatalf("%d addresses, the first %s", len(full.Ingress), full.Ingress[0].IP)
	}
	p.remove("node-4999")
	if !equality.Semantic.DeepEqual(full, p.ingress(svc, nil)) {
		t.Error("a node that the status does not name changes it")
	}
	p.remove("node-0")
	if got := p.ingress(svc, nil); len(got.Ingress) != 2*maxAddresses || equality.Semantic.DeepEqual(full, got) {
		t.Error("no other address takes the place of one that is gone")
	}
	if got := p.ingress(svc, map[string]bool{"node-4000": true, "gone": true}); len(got.Ingress) != 2 || got.Ingress[0].IP != "10.0.140.100" {
		t.Errorf("of one node that serves: %v", got.Ingress)
	}
}

// With externalTrafficPolicy Local a status names the nodes that have endpoints, and follows them.
func TestServingNodes(t *testing.T) {
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web"}, Spec: corev1.ServiceSpec{
		Type: corev1.ServiceTypeLoadBalancer, ExternalTrafficPolicy: corev1.ServiceExternalTrafficPolicyLocal}}
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	held := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc})
	if err := services.Add(svc); err != nil {
		t.Fatal(err)
	}
	c := &controller{services: services, slices: discoverylisters.NewEndpointSliceLister(held)}
	heard := 0
	handler := c.onSlice(func() { heard++ })
	at := func(node string, ready, ending bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: ptr.To(ready || ending), Terminating: &ending}}
	}
	for _, step := range []struct {
		service   string
		endpoints []discoveryv1.Endpoint
		want      string
		heard     int
	}{
		{"web", nil, "map[]", 1},
		{"web", []discoveryv1.Endpoint{at("a", false, false)}, "map[]", 2},
		{"web", []discoveryv1.Endpoint{at("a", false, true)}, "map[a:true]", 3},
		{"web", []discoveryv1.Endpoint{at("a", false, true), at("b", true, false)}, "map[a:true b:true]", 4},
		{"web", []discoveryv1.Endpoint{at("a", false, false), at("b", true, false)}, "map[b:true]", 5},
		{"other", []discoveryv1.Endpoint{at("c", true, false)}, "map[b:true]", 5},
	} {
		slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: step.service + "-1",
			Labels: map[string]string{discoveryv1.LabelServiceName: step.service}}, Endpoints: step.endpoints}
		if err := held.Update(slice); err != nil {
			t.Fatal(err)
		}
		handler.OnUpdate(slice, slice)
		if got := fmt.Sprint(c.serving(svc)); got != step.want || heard != step.heard {
			t.Errorf("%s, %d endpoints: %s, heard %d times; want %s, %d", step.service, len(step.endpoints), got, heard, step.want, step.heard)
		}
	}
	svc.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyCluster
	if got := c.serving(svc); got != nil {
		t.Errorf("policy Cluster: %v", got)
	}
}

// After any changes the pool is as one that has seen nothing but the nodes as they are.
func TestPoolFollowsChanges(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	svc := &corev1.Service{Spec: corev1.ServiceSpec{
		IPFamilies: []corev1.IPFamily{corev1.IPv6Protocol, corev1.IPv4Protocol}, Ports: []corev1.ServicePort{{Protocol: corev1.ProtocolTCP, Port: 80}},
	}}
	var p pool
	nodes := map[string]*corev1.Node{}
	for step := range 3000 {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", random.IntN(6)), Annotations: map[string]string{}, Labels: map[string]string{}}}
		for range random.IntN(4) {
			n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{
				Type:    []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP, corev1.NodeHostName}[random.IntN(3)],
				Address: fmt.Sprintf([]string{"192.0.2.%d", "2001:db8::%d"}[random.IntN(2)], random.IntN(12)),
			})
		}
		n.Annotations[refusedports.Annotation] = []string{"", "", "TCP/80", "UDP/80"}[random.IntN(4)]
		if random.IntN(9) == 0 {
			n.Labels[corev1.LabelNodeExcludeBalancers] = ""
		}
		was := p.ingress(svc, nil)
		var changed bool
		if nodes[n.Name] != nil && random.IntN(3) == 0 {
			delete(nodes, n.Name)
			changed = p.remove(n.Name)
		} else {
			nodes[n.Name] = n
			changed = p.set(n)
		}
		var fresh pool
		for _, n := range nodes {
			fresh.set(n)
		}
		got, want := p.ingress(svc, nil), fresh.ingress(svc, nil)
		if !equality.Semantic.DeepEqual(got, want) {
			t.Fatalf("step %d: the status is %v, not %v", step, got, want)
		}
		if !changed && !equality.Semantic.DeepEqual(got, was) {
			t.Fatalf("step %d: a change was not said", step)
		}
	}
}

// BenchmarkAddNodes adds 5,000 nodes, with a look at each, to a cluster without Services that have a load balancer.
func BenchmarkAddNodes(b *testing.B) {
	nodes := make([]*corev1.Node, 5000)
	for i := range nodes {
		nodes[i] = &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("node-", i)}, Status: corev1.NodeStatus{
			Addresses: []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: fmt.Sprintf("192.0.%d.%d", i/256, i%256)}},
		}}
	}
	services := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{byBalance: func(obj any) ([]string, error) {
		return []string{balance(obj.(*corev1.Service))}, nil
	}})
	for b.Loop() {
		c := &controller{services: services}
		for _, n := range nodes {
			c.pool.set(n)
			if err := c.sync(b.Context()); err != nil {
				b.Fatal(err)
			}
		}
	}
}
