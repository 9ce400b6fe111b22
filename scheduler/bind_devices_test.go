package scheduler

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/test/controltest"
)

// What a scheduler had written when it was stopped, the next one goes on with: a Pod goes where its reserved device is, a claim that is
// only kept is allocated, and a claim for extended resources, of which nobody knows for what it was, is made anew.
func TestGoesOnAfterARestart(t *testing.T) {
	server := servertest.Start(t, nil)
	before := controltest.StartOn(t, server).Client
	fillDevices(t, before, 1, "n1", "n2", "n3")
	must(t)(before.ResourceV1().DeviceClasses().Create(t.Context(), standingFor("test.io/gpu"), metav1.CreateOptions{}))
	reserved := makePod(t, before, "reserved", "reserved")
	kept := makePod(t, before, "kept", "kept")
	extended := makeExtendedPod(t, before, "extended")
	keep := func(c *resourcev1.ResourceClaim) *resourcev1.ResourceClaim {
		c.Finalizers = []string{resourcev1.Finalizer}
		c, err := before.ResourceV1().ResourceClaims("default").Update(t.Context(), c, metav1.UpdateOptions{})
		must(t)(c, err)
		return c
	}
	allocate := func(c *resourcev1.ResourceClaim, p *corev1.Pod, request, node string) {
		c.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: onNode(node), Devices: resourcev1.DeviceAllocationResult{
			Results: []resourcev1.DeviceRequestAllocationResult{{Request: request, Driver: deviceDriver, Pool: node, Device: "gpu-0"}}}}
		c.Status.ReservedFor = []resourcev1.ResourceClaimConsumerReference{{Resource: "pods", Name: p.Name, UID: p.UID}}
		must(t)(before.ResourceV1().ResourceClaims("default").UpdateStatus(t.Context(), c, metav1.UpdateOptions{}))
	}
	allocate(keep(makeClaim(t, before, "reserved")), reserved, "gpu", "n2")
	keep(makeClaim(t, before, "kept"))
	spec := gpuSpec()
	spec.Devices.Requests[0].Name = "container-0-request-0"
	left, err := before.ResourceV1().ResourceClaims("default").Create(t.Context(), &resourcev1.ResourceClaim{Spec: spec, ObjectMeta: metav1.ObjectMeta{
		Name: "left", Annotations: map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
		OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(extended, corev1.SchemeGroupVersion.WithKind("Pod"))}}}, metav1.CreateOptions{})
	must(t)(left, err)
	allocate(keep(left), extended, "container-0-request-0", "n3")

	w := startWithDevices(t, server, 0)
	if n := w.awaitNode(t, "reserved"); n != "n2" || device(w.claim("reserved")) != "n2/gpu-0" {
		t.Errorf("on %s with %s", n, device(w.claim("reserved")))
	}
	n := w.awaitNode(t, "kept")
	w.Await(t, "kept is allocated", func() bool {
		c := w.claim("kept")
		return device(c) == n+"/gpu-0" && slices.Equal(users(c), []string{kept.Name})
	})
	w.awaitNode(t, "extended")
	p, err := w.Client.CoreV1().Pods("default").Get(t.Context(), "extended", metav1.GetOptions{})
	must(t)(p, err)
	if s := p.Status.ExtendedResourceClaimStatus; s == nil || s.ResourceClaimName == "left" {
		t.Errorf("status %+v", s)
	}
	w.wantEvent(t, "3 cannot schedule extended resource claim. deletion of ResourceClaim completed, preemption: ")
	if _, err := w.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), "left", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("what was left: %v", err)
	}
}

func onNode(name string) *corev1.NodeSelector {
	return &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{name}}}}}}
}

// A claim that has a device where no Pod can go any more loses it, so that its Pod gets another.
func TestClaimThatBlocksIsDeallocated(t *testing.T) {
	server := servertest.Start(t, nil)
	before := controltest.StartOn(t, server).Client
	fillDevices(t, before, 1, "n1")
	c := makeClaim(t, before, "c")
	c.Finalizers = []string{resourcev1.Finalizer}
	c, err := before.ResourceV1().ResourceClaims("default").Update(t.Context(), c, metav1.UpdateOptions{})
	must(t)(c, err)
	c.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: onNode("gone"), Devices: resourcev1.DeviceAllocationResult{
		Results: []resourcev1.DeviceRequestAllocationResult{{Request: "gpu", Driver: deviceDriver, Pool: "gone", Device: "gpu-0"}}}}
	must(t)(before.ResourceV1().ResourceClaims("default").UpdateStatus(t.Context(), c, metav1.UpdateOptions{}))
	w := startWithDevices(t, server, 0)
	makePod(t, w.Client, "p", "c")
	w.wantEvent(t, "0/1 nodes are available: 1 resourceclaim not available on the node. deallocation of ResourceClaim completed, "+
		"preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	w.awaitNode(t, "p")
	w.Await(t, "another device", func() bool { return device(w.claim("c")) == "n1/gpu-0" })
}

// A device that has to be made ready holds its Pod up until its driver says that it is. One that fails, or takes too long, is given back.
func TestDevicesBecomeReady(t *testing.T) {
	for what, test := range map[string]struct {
		timeout   time.Duration
		condition string
		event     string
	}{
		"ready":    {0, "attached", "Normal Scheduled Successfully assigned default/p to n1"},
		"failed":   {0, "failed", `running PreBind plugin "DynamicResources": device binding failed: claim=c, reason=Test, message="as the test wants it"`},
		"too late": {time.Nanosecond, "", `running PreBind plugin "DynamicResources": device binding timeout: claim=c`},
	} {
		t.Run(what, func(t *testing.T) {
			w := startWithDevices(t, servertest.Start(t, nil), test.timeout)
			fillDevices(t, w.Client, 1, "n1")
			s := gpus("n1", 1)
			s.Spec.Devices[0].BindingConditions, s.Spec.Devices[0].BindingFailureConditions = []string{"attached"}, []string{"failed"}
			must(t)(w.Client.ResourceV1().ResourceSlices().Update(t.Context(), withVersion(t, w, s), metav1.UpdateOptions{}))
			makeClaim(t, w.Client, "c")
			makePod(t, w.Client, "p", "c")
			w.wantEvent(t, "Normal BindingConditionsPending waiting for binding conditions for device on node n1")
			if test.condition != "" {
				p, err := w.Client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
				if must(t)(p, err); p.Spec.NodeName != "" {
					t.Error("bound before its device is ready")
				}
				c, err := w.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), "c", metav1.GetOptions{})
				must(t)(c, err)
				c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: deviceDriver, Pool: "n1", Device: "gpu-0", Conditions: []metav1.Condition{
					{Type: test.condition, Status: metav1.ConditionTrue, Reason: "Test", Message: "as the test wants it", LastTransitionTime: metav1.Now()}}}}
				must(t)(w.Client.ResourceV1().ResourceClaims("default").UpdateStatus(t.Context(), c, metav1.UpdateOptions{}))
			}
			w.wantEvent(t, test.event)
			if what != "ready" { // it begins anew
				w.wantEvent(t, "Normal BindingConditionsPending waiting for binding conditions for device on node n1")
			}
		})
	}
}
