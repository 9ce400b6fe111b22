package dynamicresources_test

import (
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/dynamicresources"
	"github.com/peapod/peapod/scheduler/plugins/noderesources"
)

// extended has a container request so many of the resource.
func extended(c *corev1.Container, name string, count string) {
	c.Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m"), corev1.ResourceName(name): resource.MustParse(count)}
}

// An extended resource that a node does not have itself is had from a class that stands for it.
func TestExtendedResources(t *testing.T) {
	const name = "test.io/gpu"
	standing := class("gpu")
	standing.Spec.ExtendedResourceName = new(name)
	own := node("n2")
	own.Status.Allocatable[name] = resource.MustParse("1")
	asking := func(count string) *corev1.Pod {
		p := pod("p")
		extended(&p.Spec.Containers[0], name, count)
		return p
	}
	implicit := pod("p")
	extended(&implicit.Spec.Containers[0], resourcev1.ResourceDeviceClassPrefix+"gpu", "2")
	both := asking("2")
	both.Spec.Containers[0].Resources.Requests["other.io/x"] = resource.MustParse("1")
	stale := claim("left", exactly("gpu", 1, ""))
	stale.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
	stale.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "p", Controller: new(true)}}
	younger := class("young")
	younger.CreationTimestamp = metav1.Now()
	younger.Spec.ExtendedResourceName = new(name)
	younger.Spec.Selectors[0].CEL.Expression = "device.attributes['" + driver + "'].index == 1"
	for what, test := range map[string]struct {
		pod     *corev1.Pod
		objects []any
		want    string
	}{
		"from devices":               {asking("2"), []any{standing}, "n1 container-0-request-1=gpu-0 container-0-request-1=gpu-1"},
		"by the name of a class":     {implicit, nil, "n1 container-0-request-1=gpu-0 container-0-request-1=gpu-1"},
		"from the node":              {asking("1"), []any{standing, own, allocated(claim("full"), "n1", "n1/gpu-0", "n1/gpu-1")}, "n2"},
		"no class":                   {asking("1"), nil, "2 Insufficient test.io/gpu."},
		"another that is not there":  {both, []any{standing}, "2 Insufficient other.io/x."},
		"more than there are":        {asking("3"), []any{standing}, "2 cannot allocate all claims."},
		"left from an earlier try":   {asking("1"), []any{standing, stale}, "2 cannot schedule extended resource claim."},
		"the younger of two classes": {asking("1"), []any{standing, younger}, "n1 container-0-request-1=gpu-1"},
	} {
		c := world(test.objects...)
		want(t, what, decide(c, test.pod), test.want)
		if what == "left from an earlier try" {
			claim, how := dynamicresources.Unblock(framework.NewPod(test.pod), c.View().Devices, c.View().Nodes)
			if want(t, what+", what helps", how, dynamicresources.Deleted); claim != stale {
				t.Errorf("delete %v", claim)
			}
		}
	}
	fit := noderesources.Fit{}
	waiting := framework.NewPod(asking("1"))
	for what, test := range map[string]struct {
		e    framework.DeviceEvent
		want bool
	}{
		"a class began to stand": {framework.DeviceEvent{OldClass: class("gpu"), NewClass: standing}, true},
		"a class appeared":       {framework.DeviceEvent{NewClass: standing}, true},
		"a class stays":          {framework.DeviceEvent{OldClass: standing, NewClass: standing}, false},
		"another class":          {framework.DeviceEvent{NewClass: class("other")}, false},
	} {
		if got := fit.Helps(waiting, framework.Event{Devices: &test.e}); got != test.want {
			t.Errorf("%s helps: %t", what, got)
		}
	}
	if !fit.Helps(waiting, framework.Event{NewNode: node("n3")}) {
		t.Error("a node without the resource does not help, though a class may stand for it")
	}
}

// Init containers use the devices of those that come after them, and share one request for what they need beyond.
func TestRequestsOfContainers(t *testing.T) {
	const name = "test.io/gpu"
	standing := class("gpu")
	standing.Spec.ExtendedResourceName = new(name)
	p := pod("p")
	always := corev1.ContainerRestartPolicyAlways
	p.Spec.InitContainers = []corev1.Container{{Name: "small"}, {Name: "sidecar", RestartPolicy: &always}, {Name: "large"}, {Name: "larger"}}
	for i, count := range []string{"1", "1", "2", "3"} {
		extended(&p.Spec.InitContainers[i], name, count)
	}
	extended(&p.Spec.Containers[0], name, "1")
	c := world(standing, slice("n1", 8))
	wrapped := framework.NewPod(p)
	plan, err := dynamicresources.Plan(wrapped, c.View().Devices, c.View().Nodes[0])
	if err != nil || len(plan.Claims) != 1 {
		t.Fatalf("%v, %v", plan, err)
	}
	made := plan.Claims[0].Claim
	var requests, mappings []string
	for _, r := range made.Spec.Devices.Requests {
		requests = append(requests, fmt.Sprintf("%s %d %s", r.Name, r.Exactly.Count, r.Exactly.DeviceClassName))
	}
	for _, m := range plan.Mappings {
		mappings = append(mappings, m.ContainerName+" "+m.RequestName)
	}
	want(t, "requests", strings.Join(requests, ", "), "container-1-request-1 1 gpu, container-3-request-1 2 gpu, container-4-request-1 1 gpu")
	want(t, "mappings", strings.Join(mappings, ", "), "sidecar container-1-request-1, c container-4-request-1, small container-1-request-1, "+
		"large container-4-request-1, larger container-4-request-1, large container-3-request-1, larger container-3-request-1")
	if !metav1.IsControlledBy(made, p) || made.GenerateName != "p-extended-resources-" || !plan.Claims[0].Extended {
		t.Errorf("claim %v", made)
	}
}
