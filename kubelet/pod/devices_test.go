package pod_test

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
)

// TestDevicesAreRefused: a Pod that names a claim for devices does not run without them, however it came to the node.
func TestDevicesAreRefused(t *testing.T) {
	s := newStage(t)
	s.start()
	claim := "gpu"
	s.m.Upsert(onePod("a", func(p *v1.Pod) {
		p.Spec.ResourceClaims = []v1.PodResourceClaim{{Name: "device", ResourceClaimName: &claim}}
	}))
	want := `Warning FailedPrepareDynamicResources Failed to prepare dynamic resources: claim "device" in spec.resourceClaims: this node has no drivers of dynamic resource allocation: remove the claim from the pod`
	for got, timeout := "", time.After(time.Minute); got != want; {
		select {
		case got = <-s.events.Events:
		case <-timeout:
			t.Fatalf("no event %q", want)
		}
	}
	if !s.rt.Empty() {
		t.Errorf("the runtime has something: %v", s.rt.Calls())
	}
}
