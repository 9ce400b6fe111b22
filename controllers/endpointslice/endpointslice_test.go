package endpointslice

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/klog/v2/ktesting"

	"github.com/peapod/peapod/controllers/engine"
)

func node(name, zone string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelTopologyZone: zone}},
		Status: corev1.NodeStatus{
			Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
			Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
		},
	}
}

// hintedZones are the zones that six endpoints of a Service, in two zones, are to serve; they are empty where there are no hints.
func hintedZones(t *testing.T, topology *topologycache.TopologyCache) (zones [6]string) {
	t.Helper()
	logger, _ := ktesting.NewTestContext(t)
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	for i := range zones {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.0.0.%d", i+1)}, Zone: new(string([]byte{'a' + byte(i%2)})),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	topology.AddHints(logger, &topologycache.SliceInfo{
		ServiceKey: "ns/svc", AddressType: discoveryv1.AddressTypeIPv4, ToCreate: []*discoveryv1.EndpointSlice{slice},
	})
	for i, e := range slice.Endpoints {
		if e.Hints != nil {
			zones[i] = e.Hints.ForZones[0].Name
		}
	}
	return zones
}

// However many nodes have changed, topology is told when a worker gets to it, and not again before the next change.
func TestTopologyIsToldOnceOfAllChanges(t *testing.T) {
	c := &controller{topology: topologycache.NewTopologyCache(), loop: &engine.Loop{Name: "test"}}
	sync := func() {
		t.Helper()
		if err := c.sync(t.Context(), nodesKey); err != nil {
			t.Fatal(err)
		}
	}
	var none [6]string
	a, b := node("node-0", "a"), node("node-1", "b")
	c.nodeSet(a)
	c.nodeSet(b)
	if hintedZones(t, c.topology) != none {
		t.Error("topology was told at the nodes' events")
	}
	sync()
	if hintedZones(t, c.topology) == none {
		t.Fatal("nodes in two zones give no hints: topology was not told of them")
	}
	heartbeat := b.DeepCopy()
	heartbeat.Status.Conditions[0].LastHeartbeatTime = metav1.Now()
	c.nodeSet(heartbeat)
	if c.zones.tell(c.topology) {
		t.Error("topology was told of a heartbeat")
	}
	c.nodeGone(cache.DeletedFinalStateUnknown{Key: b.Name, Obj: b})
	sync()
	if hintedZones(t, c.topology) != none {
		t.Error("one zone is left, and there still are hints")
	}
}

// After any changes topology spreads endpoints as if it had counted all nodes.
func TestZonesAddUpToAllNodes(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	logger, _ := ktesting.NewTestContext(t)
	var z zones
	nodes := map[string]*corev1.Node{}
	hints := map[[6]string]int{}
	for step := range 3000 {
		n := node(fmt.Sprint("node-", random.IntN(5)), string([]byte{'a' + byte(random.IntN(3))}))
		n.Status.Allocatable[corev1.ResourceCPU] = *resource.NewMilliQuantity(1+random.Int64N(8000), resource.DecimalSI)
		switch random.IntN(12) {
		case 0:
			n.Labels[corev1.LabelTopologyZone] = ""
		case 1:
			delete(n.Status.Allocatable, corev1.ResourceCPU)
		case 2:
			n.Labels["node-role.kubernetes.io/control-plane"] = ""
		case 3:
			n.Status.Conditions[0].Status = corev1.ConditionUnknown
		}
		if nodes[n.Name] != nil && random.IntN(3) == 0 {
			delete(nodes, n.Name)
			z.remove(n.Name)
		} else {
			nodes[n.Name] = n
			z.set(n)
		}
		ours, theirs := topologycache.NewTopologyCache(), topologycache.NewTopologyCache()
		z.stale = true // ours is new
		z.tell(ours)
		theirs.SetNodes(logger, slices.Collect(maps.Values(nodes)))
		got, want := hintedZones(t, ours), hintedZones(t, theirs)
		// Which endpoints of a zone are given away follows the order of a map: how many each zone has counts.
		slices.Sort(got[:])
		slices.Sort(want[:])
		if got != want {
			t.Fatalf("step %d: %v is spread as %v, not %v", step, z.sums, got, want)
		}
		hints[want]++
	}
	if len(hints) < 4 {
		t.Errorf("the test saw only %v", hints)
	}
}

// BenchmarkAddNodes adds 5,000 nodes, with a look at each.
func BenchmarkAddNodes(b *testing.B) {
	nodes := make([]*corev1.Node, 5000)
	for i := range nodes {
		nodes[i] = node(fmt.Sprint("node-", i), fmt.Sprint("zone-", i%10))
	}
	for b.Loop() {
		c := &controller{topology: topologycache.NewTopologyCache(), loop: &engine.Loop{Name: "bench"}}
		for _, n := range nodes {
			c.nodeSet(n)
			if err := c.sync(b.Context(), nodesKey); err != nil {
				b.Fatal(err)
			}
		}
	}
}
