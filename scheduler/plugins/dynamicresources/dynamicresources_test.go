package dynamicresources_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins"
	"github.com/peapod/peapod/scheduler/plugins/dynamicresources"
)

const driver = "gpu.test.io"

func node(name string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: corev1.NodeStatus{
		Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}}}
}

// slice has devices gpu-0, gpu-1, ... on the node, each with the attribute "index" and 8Gi of memory.
func slice(node string, devices int) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node + "-gpus"}, Spec: resourcev1.ResourceSliceSpec{
		Driver: driver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1}}}
	for i := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("gpu-", i),
			Attributes: map[resourcev1.QualifiedName]resourcev1.DeviceAttribute{"index": {IntValue: new(int64(i))}},
			Capacity:   map[resourcev1.QualifiedName]resourcev1.DeviceCapacity{"memory": {Value: resource.MustParse("8Gi")}}})
	}
	return s
}

func class(name string) *resourcev1.DeviceClass {
	return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.DeviceClassSpec{
		Selectors: []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: "device.driver == '" + driver + "'"}}}}}
}

// exactly asks for so many devices of the class that the expression selects; an empty one selects all.
func exactly(class string, count int64, expression string) *resourcev1.ExactDeviceRequest {
	r := &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}
	if expression != "" {
		r.Selectors = []resourcev1.DeviceSelector{{CEL: &resourcev1.CELDeviceSelector{Expression: expression}}}
	}
	return r
}

func claim(name string, requests ...*resourcev1.ExactDeviceRequest) *resourcev1.ResourceClaim {
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), ResourceVersion: "1"}}
	for i, r := range requests {
		c.Spec.Devices.Requests = append(c.Spec.Devices.Requests, resourcev1.DeviceRequest{Name: fmt.Sprint("r", i), Exactly: r})
	}
	return c
}

// allocated gives the claim devices "pool/device", which can be used on the node only.
func allocated(c *resourcev1.ResourceClaim, node string, devices ...string) *resourcev1.ResourceClaim {
	c.Status.Allocation = &resourcev1.AllocationResult{NodeSelector: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
		MatchFields: []corev1.NodeSelectorRequirement{{Key: "metadata.name", Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}}}}
	for _, d := range devices {
		pool, name, _ := strings.Cut(d, "/")
		c.Status.Allocation.Devices.Results = append(c.Status.Allocation.Devices.Results, resourcev1.DeviceRequestAllocationResult{
			Request: "r0", Driver: driver, Pool: pool, Device: name})
	}
	return c
}

func reserved(c *resourcev1.ResourceClaim, pods ...string) *resourcev1.ResourceClaim {
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p, UID: types.UID(p)})
	}
	return c
}

func pod(name string, claims ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	for _, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, corev1.PodResourceClaim{Name: c, ResourceClaimName: &c})
	}
	return p
}

// world has the nodes n1 with two devices and n2 with one, and the class "gpu".
func world(objects ...any) *cluster.Cluster {
	c := cluster.New(func(string) map[string]string { return nil })
	c.SetNode(node("n1"))
	c.SetNode(node("n2"))
	d := c.View().Devices
	d.SetClass(class("gpu"))
	d.SetSlice(slice("n1", 2))
	d.SetSlice(slice("n2", 1))
	for _, o := range objects {
		switch o := o.(type) {
		case *resourcev1.ResourceClaim:
			d.SetClaim(o)
		case *resourcev1.DeviceClass:
			d.SetClass(o)
		case *resourcev1.ResourceSlice:
			d.SetSlice(o)
		case *resourcev1.DeviceTaintRule:
			d.SetRule(o)
		case *corev1.Node:
			c.SetNode(o)
		}
	}
	return c
}

// rule taints the devices of a driver, so that no claim gets them.
func rule(driver string) *resourcev1.DeviceTaintRule {
	return &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "rule"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{Driver: &driver}, Taint: resourcev1.DeviceTaint{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoExecute}}}
}

// decide has the whole cycle decide, and returns the node with the devices of the plan, or why there is none.
func decide(c *cluster.Cluster, p *corev1.Pod) string {
	wrapped := framework.NewPod(p)
	d := cycle.New(plugins.All()).Decide(wrapped, c.View())
	switch {
	case d.Err != nil:
		return d.Err.Error()
	case d.Node == nil:
		return strings.TrimPrefix(d.Short, "0/2 nodes are available: ")
	}
	plan, err := dynamicresources.Plan(wrapped, c.View().Devices, d.Node)
	if err != nil {
		return err.Error()
	}
	out := []string{d.Node.Node.Name}
	if plan != nil {
		for _, pc := range plan.Claims {
			if pc.Allocation == nil {
				continue
			}
			for _, r := range pc.Allocation.Devices.Results {
				out = append(out, r.Request+"="+r.Device)
			}
		}
		c.View().Devices.Assume(p.UID, plan)
	}
	return strings.Join(out, " ")
}

func want(t *testing.T, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: %q, want %q", what, got, want)
	}
}

// TestDecides: where a Pod goes, with which devices, or why nowhere, as upstream words it.
func TestDecides(t *testing.T) {
	going := claim("c", exactly("gpu", 1, ""))
	going.DeletionTimestamp = new(metav1.Now())
	own := pod("p")
	own.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu", ResourceClaimTemplateName: new("t")}}
	named := own.DeepCopy()
	named.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: new("c")}}
	none := own.DeepCopy()
	none.Status.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu"}}
	owned := claim("c", exactly("gpu", 1, "device.attributes['"+driver+"'].index == 1"))
	owned.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "p", Controller: new(true)}}
	alternatives := claim("c")
	alternatives.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{
		{Name: "two", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2},
		{Name: "one", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}}
	unknown := alternatives.DeepCopy()
	unknown.Spec.Devices.Requests[0].FirstAvailable[1].DeviceClassName = "no"
	admin := claim("c", exactly("gpu", 2, ""))
	admin.Spec.Devices.Requests[0].Exactly.AdminAccess = new(true)
	distinct := claim("c", exactly("gpu", 1, ""), exactly("gpu", 1, ""))
	distinct.Spec.Devices.Constraints = []resourcev1.DeviceConstraint{{MatchAttribute: new(resourcev1.FullyQualifiedName(driver + "/index"))}}
	broken := slice("n2", 1)
	broken.Spec.Devices[0].Taints = []resourcev1.DeviceTaint{{Key: "broken", Effect: resourcev1.DeviceTaintEffectNoSchedule}}
	tolerant := claim("c", exactly("gpu", 1, ""))
	tolerant.Spec.Devices.Requests[0].Exactly.Tolerations = []resourcev1.DeviceToleration{{Operator: resourcev1.DeviceTolerationOpExists}}
	full := allocated(claim("full"), "n1", "n1/gpu-0", "n1/gpu-1")
	watched := allocated(claim("full"), "n1", "n1/gpu-0", "n1/gpu-1")
	for i := range watched.Status.Allocation.Devices.Results {
		watched.Status.Allocation.Devices.Results[i].AdminAccess = new(true)
	}
	nowhere := allocated(claim("c"), "n9", "n9/gpu-0")
	for what, test := range map[string]struct {
		pod     *corev1.Pod
		objects []any
		want    string
	}{
		"without claims":                 {pod("p"), []any{node("n1"), full}, "n1"},
		"the claim is not there":         {pod("p", "c"), nil, `resourceclaim "c": object not found.`},
		"the claim is going":             {pod("p", "c"), []any{going}, `resourceclaim "c" is being deleted.`},
		"not made from its template yet": {own, nil, `pod "default/p": ResourceClaim not created yet.`},
		"made for another Pod":           {named, []any{claim("c", exactly("gpu", 1, ""))}, `ResourceClaim default/c was not created for Pod default/p (Pod is not owner).`},
		"made for the Pod":               {named, []any{owned}, "n1 r0=gpu-1"},
		"none was needed":                {none, nil, "n1"},
		"no such class":                  {pod("p", "c"), []any{claim("c", exactly("no", 1, ""))}, "request r0: device class no does not exist."},
		"no such class, second choice":   {pod("p", "c"), []any{unknown}, "request r/one: device class no does not exist."},
		"two devices":                    {pod("p", "c"), []any{claim("c", exactly("gpu", 2, ""))}, "n1 r0=gpu-0 r0=gpu-1"},
		"one claim twice":                {pod("p", "c", "c"), []any{claim("c", exactly("gpu", 2, ""))}, "n1 r0=gpu-0 r0=gpu-1"},
		"two claims":                     {pod("p", "c", "d"), []any{claim("c", exactly("gpu", 1, "")), claim("d", exactly("gpu", 1, ""))}, "n1 r0=gpu-0 r0=gpu-1"},
		"more than there are":            {pod("p", "c"), []any{claim("c", exactly("gpu", 3, ""))}, "2 cannot allocate all claims."},
		"what is left":                   {pod("p", "c"), []any{full, claim("c", exactly("gpu", 1, ""))}, "n2 r0=gpu-0"},
		"an administrator takes nothing": {pod("p", "c"), []any{watched, claim("c", exactly("gpu", 2, ""))}, "n1 r0=gpu-0 r0=gpu-1"},
		"for an administrator":           {pod("p", "c"), []any{full, admin}, "n1 r0=gpu-0 r0=gpu-1"},
		"selected":                       {pod("p", "c"), []any{claim("c", exactly("gpu", 1, "device.attributes['"+driver+"'].index > 0"))}, "n1 r0=gpu-1"},
		"a broken expression":            {pod("p", "c"), []any{claim("c", exactly("gpu", 1, "device.attributes['"+driver+"'].no > 0"))}, ""},
		"a constraint":                   {pod("p", "c"), []any{distinct}, "2 cannot allocate all claims."},
		"a taint":                        {pod("p", "c"), []any{full, broken, claim("c", exactly("gpu", 1, ""))}, "2 cannot allocate all claims."},
		"a tolerated taint":              {pod("p", "c"), []any{full, broken, tolerant}, "n2 r0=gpu-0"},
		"a rule's taint":                 {pod("p", "c"), []any{rule(driver), claim("c", exactly("gpu", 1, ""))}, "2 cannot allocate all claims."},
		"a rule for another driver":      {pod("p", "c"), []any{rule("other"), full, claim("c", exactly("gpu", 1, ""))}, "n2 r0=gpu-0"},
		"a rule's tolerated taint":       {pod("p", "c"), []any{rule(driver), full, tolerant}, "n2 r0=gpu-0"},
		"the first choice":               {pod("p", "c"), []any{alternatives}, "n1 r/two=gpu-0 r/two=gpu-1"},
		"the second choice":              {pod("p", "c"), []any{full, alternatives}, "n2 r/one=gpu-0"},
		"allocated":                      {pod("p", "c"), []any{allocated(claim("c"), "n2", "n2/gpu-0")}, "n2"},
		"used by another, too":           {pod("p", "c"), []any{reserved(allocated(claim("c"), "n2", "n2/gpu-0"), "q")}, "n2"},
		"allocated elsewhere":            {pod("p", "c"), []any{nowhere}, "2 resourceclaim not available on the node."},
		"one there, one to be allocated": {pod("p", "c", "d"), []any{allocated(claim("c"), "n2", "n2/gpu-0"), claim("d", exactly("gpu", 1, ""))},
			"1 cannot allocate all claims, 1 resourceclaim not available on the node."},
	} {
		c := world(test.objects...)
		got := decide(c, test.pod)
		if what == "a broken expression" {
			if !strings.HasPrefix(got, `running "DynamicResources" filter plugin: claim default/c: selector #0 on device gpu.test.io/n`) ||
				!strings.Contains(got, "CEL runtime error: no such key: no") {
				t.Errorf("%s: %q", what, got)
			}
			continue
		}
		if what == "without claims" || what == "none was needed" {
			got = strings.Replace(got, "n2", "n1", 1) // either
		}
		want(t, what, got, test.want)
	}
}

// What was decided counts before it is written, until the API shows it or it is released.
func TestAssumed(t *testing.T) {
	c := world(claim("a", exactly("gpu", 2, "")), claim("b", exactly("gpu", 2, "")), claim("c", exactly("gpu", 1, "")))
	d := c.View().Devices
	want(t, "the first", decide(c, pod("p", "a")), "n1 r0=gpu-0 r0=gpu-1")
	want(t, "the same claim", decide(c, pod("q", "a")), "resource claim default/a is in the process of being allocated.")
	want(t, "the same devices", decide(c, pod("q", "b")), "2 cannot allocate all claims.")
	want(t, "other devices", decide(c, pod("r", "c")), "n2 r0=gpu-0")
	if got := d.ReleasePod("p"); len(got) != 1 || got[0].Name != "a" || got[0].Status.Allocation == nil {
		t.Errorf("released %v", got)
	}
	want(t, "released", decide(c, pod("q", "b")), "n1 r0=gpu-0 r0=gpu-1")
	written := allocated(claim("b"), "n1", "n1/gpu-0", "n1/gpu-1")
	written.ResourceVersion = "3"
	d.Wrote(written)
	if d.Pending("b") {
		t.Error("pending though written")
	}
	d.SetClaim(claim("b", exactly("gpu", 2, ""))) // an event that is older than what was written
	want(t, "written", decide(c, pod("p", "a")), "2 cannot allocate all claims.")
	freed := claim("b", exactly("gpu", 2, ""))
	freed.ResourceVersion = "4"
	d.SetClaim(freed)
	want(t, "freed", decide(c, pod("p", "a")), "n1 r0=gpu-0 r0=gpu-1")
	d.RemoveClaim(claim("a"))
	d.Wrote(allocated(claim("a"), "n1", "n1/gpu-0", "n1/gpu-1"))
	want(t, "gone, whatever is answered to the write", decide(c, pod("q", "b")), "n1 r0=gpu-0 r0=gpu-1")
}

// A device that others than the scheduler have given to two claims is free when both have let it go.
func TestGivenTwice(t *testing.T) {
	one, two := allocated(claim("one"), "n2", "n2/gpu-0"), allocated(claim("two"), "n2", "n2/gpu-0")
	c := world(one, two, allocated(claim("full"), "n1", "n1/gpu-0", "n1/gpu-1"), claim("c", exactly("gpu", 1, "")))
	c.View().Devices.RemoveClaim(one)
	want(t, "one has gone", decide(c, pod("p", "c")), "2 cannot allocate all claims.")
	c.View().Devices.RemoveClaim(two)
	want(t, "both have gone", decide(c, pod("p", "c")), "n2 r0=gpu-0")
}

// Several claims may have shares of one device, as far as its capacity goes.
func TestShares(t *testing.T) {
	shared := slice("n2", 1)
	shared.Spec.Devices[0].AllowMultipleAllocations = new(true)
	shared.Spec.Devices[0].Capacity["memory"] = resourcev1.DeviceCapacity{Value: resource.MustParse("8Gi"), RequestPolicy: &resourcev1.CapacityRequestPolicy{
		Default: new(resource.MustParse("8Gi")), ValidRange: &resourcev1.CapacityRequestPolicyRange{Min: new(resource.MustParse("1Gi"))}}}
	share := func(name, memory string) *resourcev1.ResourceClaim {
		c := claim(name, exactly("gpu", 1, "device.allowMultipleAllocations == true"))
		c.Spec.Devices.Requests[0].Exactly.Capacity = &resourcev1.CapacityRequirements{Requests: map[resourcev1.QualifiedName]resource.Quantity{"memory": resource.MustParse(memory)}}
		return c
	}
	c := world(shared, share("a", "5Gi"), share("b", "5Gi"), share("c", "3Gi"))
	want(t, "the first share", decide(c, pod("p", "a")), "n2 r0=gpu-0")
	want(t, "too much", decide(c, pod("q", "b")), "2 cannot allocate all claims.")
	want(t, "the rest", decide(c, pod("r", "c")), "n2 r0=gpu-0")
	c.View().Devices.ReleasePod("p")
	want(t, "released", decide(c, pod("q", "b")), "n2 r0=gpu-0")
}

// Devices that have to be made ready keep the Pod where they are, unless that fails or takes too long.
func TestReady(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	with := func(since time.Duration, conditions ...metav1.Condition) *resourcev1.ResourceClaim {
		c := reserved(allocated(claim("c"), "n2", "n2/gpu-0"), "p")
		c.Status.Allocation.AllocationTimestamp = &metav1.Time{Time: now.Add(-since)}
		c.Status.Allocation.Devices.Results[0].BindingConditions = []string{"attached"}
		c.Status.Allocation.Devices.Results[0].BindingFailureConditions = []string{"failed"}
		c.Status.Devices = []resourcev1.AllocatedDeviceStatus{{Driver: driver, Pool: "n2", Device: "gpu-0", Conditions: conditions}}
		return c
	}
	attached := metav1.Condition{Type: "attached", Status: metav1.ConditionTrue}
	failed := metav1.Condition{Type: "failed", Status: metav1.ConditionTrue, Reason: "Cable", Message: "no cable"}
	notFailed := metav1.Condition{Type: "failed", Status: metav1.ConditionFalse}
	shared := reserved(with(time.Hour), "q")
	for what, test := range map[string]struct {
		claim *resourcev1.ResourceClaim
		want  string
		what  string
	}{
		"not ready yet":       {with(time.Second), "n2", dynamicresources.StillNowhere},
		"ready":               {with(time.Hour, attached, notFailed), "n2", dynamicresources.StillNowhere},
		"failed":              {with(time.Second, failed), "2 resourceclaim not available on the node.", dynamicresources.Deallocated},
		"too late":            {with(time.Hour), "2 resourceclaim not available on the node.", dynamicresources.Deallocated},
		"used by another too": {shared, "2 resourceclaim not available on the node.", dynamicresources.StillNowhere},
	} {
		c := world(test.claim)
		d := c.View().Devices
		d.Now, d.BindTimeout = now, time.Minute
		want(t, what, decide(c, pod("p", "c")), test.want)
		got, how := dynamicresources.Unblock(framework.NewPod(pod("p", "c")), d, c.View().Nodes[1:])
		if want(t, what+", what helps", how, test.what); (got != nil) != (test.what == dynamicresources.Deallocated) {
			t.Errorf("%s: deallocate %v", what, got)
		}
	}
	_, err := dynamicresources.Ready(with(0, failed))
	want(t, "why", fmt.Sprint(err), `device binding failed: claim=c, reason=Cable, message="no cable"`)
}

// The node that has the first alternative is preferred, also where all else speaks for the other.
func TestScore(t *testing.T) {
	alternatives := claim("c")
	alternatives.Spec.Devices.Requests = []resourcev1.DeviceRequest{{Name: "r", FirstAvailable: []resourcev1.DeviceSubRequest{
		{Name: "two", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2},
		{Name: "one", DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}}}
	for range 4 { // equals would take turns
		c := world(alternatives)
		view, p := c.View(), framework.NewPod(pod("p", "c"))
		check, _ := dynamicresources.Plugin{}.Prepare(p, view)
		for _, n := range view.Nodes {
			if against := check(n); against != nil {
				t.Fatal(against)
			}
		}
		score := dynamicresources.Plugin{}.PrepareScore(p, view, view.Nodes)
		raw := []int64{score(view.Nodes[0]), score(view.Nodes[1])}
		dynamicresources.Plugin{}.Normalize(raw)
		if !slices.Equal(raw, []int64{100, 87}) {
			t.Fatalf("scores %v", raw)
		}
	}
	c := world(claim("c", exactly("gpu", 1, "")))
	if (dynamicresources.Plugin{}).PrepareScore(framework.NewPod(pod("p", "c")), c.View(), c.View().Nodes) != nil {
		t.Error("a claim without alternatives makes a difference")
	}
}

func TestWhatHelps(t *testing.T) {
	p := framework.NewPod(pod("p", "c"))
	idle, busy := claim("c", exactly("gpu", 1, "")), allocated(claim("c", exactly("gpu", 1, "")), "n1", "n1/gpu-0")
	labelled := claim("c", exactly("gpu", 1, ""))
	labelled.Labels = map[string]string{"a": "b"}
	elsewhere := claim("c")
	elsewhere.Namespace = "other"
	left := claim("left")
	left.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "p", Controller: new(true)}}
	more := node("n1")
	more.Status.Allocatable[corev1.ResourceCPU] = resource.MustParse("8")
	devices := func(e framework.DeviceEvent) framework.Event { return framework.Event{Devices: &e} }
	for what, test := range map[string]struct {
		e    framework.Event
		want bool
	}{
		"all is known now":               {devices(framework.DeviceEvent{}), true},
		"its claim appeared":             {devices(framework.DeviceEvent{NewClaim: idle}), true},
		"its claim was allocated":        {devices(framework.DeviceEvent{OldClaim: idle, NewClaim: busy}), true},
		"its claim has other labels":     {devices(framework.DeviceEvent{OldClaim: idle, NewClaim: labelled}), false},
		"a claim elsewhere appeared":     {devices(framework.DeviceEvent{NewClaim: elsewhere}), false},
		"another claim appeared":         {devices(framework.DeviceEvent{NewClaim: claim("d")}), false},
		"another claim was allocated":    {devices(framework.DeviceEvent{OldClaim: claim("d"), NewClaim: allocated(claim("d"), "n1", "n1/gpu-0")}), false},
		"another claim was deallocated":  {devices(framework.DeviceEvent{OldClaim: allocated(claim("d"), "n1", "n1/gpu-0"), NewClaim: claim("d")}), true},
		"an allocated claim has gone":    {devices(framework.DeviceEvent{OldClaim: allocated(claim("d"), "n1", "n1/gpu-0")}), true},
		"an idle claim has gone":         {devices(framework.DeviceEvent{OldClaim: claim("d")}), false},
		"what an earlier try left":       {devices(framework.DeviceEvent{OldClaim: left}), true},
		"a class appeared":               {devices(framework.DeviceEvent{NewClass: class("gpu")}), true},
		"a class has gone":               {devices(framework.DeviceEvent{OldClass: class("gpu")}), false},
		"a slice changed":                {devices(framework.DeviceEvent{OldSlice: slice("n1", 1), NewSlice: slice("n1", 2)}), true},
		"a slice has gone":               {devices(framework.DeviceEvent{OldSlice: slice("n1", 1)}), false},
		"a rule taints devices":          {devices(framework.DeviceEvent{NewRule: rule(driver)}), false},
		"a rule changed":                 {devices(framework.DeviceEvent{OldRule: rule(driver), NewRule: rule("other")}), true},
		"a rule has gone":                {devices(framework.DeviceEvent{OldRule: rule(driver)}), true},
		"a node appeared":                {framework.Event{NewNode: node("n1")}, true},
		"a node has more":                {framework.Event{OldNode: node("n1"), NewNode: more}, true},
		"a node's other fields changed":  {framework.Event{OldNode: node("n1"), NewNode: node("n1")}, false},
		"a Pod left":                     {framework.Event{OldPod: pod("q")}, false},
		"something that is not of nodes": {framework.Event{NewClaim: &corev1.PersistentVolumeClaim{}}, false},
	} {
		if got := (dynamicresources.Plugin{}).Helps(p, test.e); got != test.want {
			t.Errorf("%s: %t", what, got)
		}
	}
}
