package endpointslice

import (
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	corelisters "k8s.io/client-go/listers/core/v1"
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

// hinted says whether a Service with three endpoints in each of two zones gets hints.
func hinted(t *testing.T, c *controller) bool {
	t.Helper()
	logger, _ := ktesting.NewTestContext(t)
	slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4}
	for i := range 6 {
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{fmt.Sprintf("10.0.0.%d", i+1)}, Zone: new(string([]byte{'a' + byte(i%2)})),
			Conditions: discoveryv1.EndpointConditions{Ready: new(true)},
		})
	}
	c.topology.AddHints(logger, &topologycache.SliceInfo{
		ServiceKey: "ns/svc", AddressType: discoveryv1.AddressTypeIPv4, ToCreate: []*discoveryv1.EndpointSlice{slice},
	})
	return slice.Endpoints[0].Hints != nil
}

// However many nodes have changed, they are counted when a worker gets to it, and not again before the next change.
func TestNodesAreCountedOnceForAllChanges(t *testing.T) {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	c := &controller{nodes: corelisters.NewNodeLister(nodes), topology: topologycache.NewTopologyCache(), loop: &engine.Loop{Name: "test"}}
	sync := func() {
		t.Helper()
		if err := c.sync(t.Context(), nodesKey); err != nil {
			t.Fatal(err)
		}
	}
	for i, zone := range []string{"a", "b"} {
		if err := nodes.Add(node(fmt.Sprint("node-", i), zone)); err != nil {
			t.Fatal(err)
		}
		c.nodesChanged()
	}
	if hinted(t, c) {
		t.Error("nodes were counted at their events")
	}
	sync()
	if !hinted(t, c) {
		t.Fatal("nodes in two zones give no hints: they were not counted")
	}
	if err := nodes.Delete(node("node-1", "b")); err != nil {
		t.Fatal(err)
	}
	sync()
	if !hinted(t, c) {
		t.Error("nodes were counted although no event said that they had changed")
	}
	c.nodesChanged()
	sync()
	if hinted(t, c) {
		t.Error("one zone is left, and there still are hints")
	}
}
