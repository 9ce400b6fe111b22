package node

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/critest"
)

type pressure struct {
	mu     sync.Mutex
	memory bool
}

func (p *pressure) Pressure() (bool, bool, bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.memory, false, false
}

func (p *pressure) Kept(v1.ResourceList) v1.ResourceList {
	return v1.ResourceList{v1.ResourceMemory: resource.MustParse("100Mi"), v1.ResourceEphemeralStorage: resource.MustParse("1Gi")}
}

func testNode(t *testing.T, client *fake.Clientset, p Pressure) (*Node, *record.FakeRecorder) {
	t.Helper()
	events := record.NewFakeRecorder(100)
	n, err := New(Config{
		Name: "n1", Client: client, Runtime: critest.New(), Images: critest.NewImages("img:1"), Recorder: events,
		IPs: []string{"192.0.2.1", "2001:db8::1"}, Labels: map[string]string{"gpu": "true"},
		Annotations: map[string]string{"example.com/a": "b"}, PodCIDRs: []string{"10.244.0.0/24"},
		Port: 10250, RootDir: t.TempDir(), Version: "v1.37.2", Pressure: p, Reserved: v1.ResourceList{v1.ResourceCPU: resource.MustParse("100m")},
	})
	if err != nil {
		t.Fatal(err)
	}
	return n, events
}

func TestRegisterAndReport(t *testing.T) {
	client, p := fake.NewClientset(), &pressure{}
	n, events := testNode(t, client, p)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	defer func() { cancel(); <-done }()
	select {
	case <-n.Registered():
		if e := <-events.Events; e != "Normal Starting Starting kubelet." {
			t.Errorf("the first event is %q", e)
		}
	case <-time.After(time.Minute):
		t.Fatal("never registered")
	}
	got, err := client.CoreV1().Nodes().Get(ctx, "n1", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if got.Labels[v1.LabelHostname] != "n1" || got.Labels["gpu"] != "true" || got.Annotations["example.com/a"] != "b" || got.Spec.PodCIDR != "10.244.0.0/24" {
		t.Errorf("node %+v %+v %+v", got.Labels, got.Annotations, got.Spec)
	}
	s := got.Status
	if fmt.Sprint(s.Addresses) != "[{InternalIP 192.0.2.1} {InternalIP 2001:db8::1} {Hostname n1}]" || s.DaemonEndpoints.KubeletEndpoint.Port != 10250 {
		t.Errorf("addresses %v, port %v", s.Addresses, s.DaemonEndpoints)
	}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory, v1.ResourceEphemeralStorage, v1.ResourcePods} {
		have, may := s.Capacity[name], s.Allocatable[name]
		if have.IsZero() || may.IsZero() || may.Cmp(have) > 0 || (name == v1.ResourceCPU && have.MilliValue()-may.MilliValue() != 100) {
			t.Errorf("%s: capacity %v, allocatable %v", name, have.String(), may.String())
		}
	}
	if have, may := s.Capacity[v1.ResourceEphemeralStorage], s.Allocatable[v1.ResourceEphemeralStorage]; have.Value()-may.Value() != 1<<30 {
		t.Errorf("storage %v, allocatable %v: eviction keeps 1Gi", have.String(), may.String())
	}
	if fmt.Sprint(s.DeclaredFeatures) != "[InPlacePodLevelResourcesVerticalScaling InPlacePodVerticalScalingInitContainers RestartAllContainersOnContainerExits]" {
		t.Errorf("declared features %v", s.DeclaredFeatures)
	}
	i := s.NodeInfo
	if i.KernelVersion == "" || i.BootID == "" || i.OSImage == "" || i.ContainerRuntimeVersion != "critest://1" || i.KubeletVersion != "v1.37.2" || i.Architecture == "" {
		t.Errorf("info %+v", i)
	}
	if len(s.Images) != 1 || s.Images[0].Names[0] != "img:1" || !isReady(&s) {
		t.Errorf("images %v, conditions %v", s.Images, s.Conditions)
	}
	p.mu.Lock()
	p.memory = true
	p.mu.Unlock()
	n.Kick()
	want := "Normal NodeHasInsufficientMemory Node n1 status is now: NodeHasInsufficientMemory"
	for {
		select {
		case e := <-events.Events:
			if e == want {
				return
			}
		case <-time.After(time.Minute):
			t.Fatalf("no event %q", want)
		}
	}
}

// TestCordon: events say that the node is cordoned and that it is not any more, each once.
func TestCordon(t *testing.T) {
	n, events := testNode(t, fake.NewClientset(), nil)
	if err := n.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	node, err := n.Get()
	if err != nil {
		t.Fatal(err)
	}
	for _, cordoned := range []bool{false, true, true, false, false} {
		node = node.DeepCopy()
		node.Spec.Unschedulable = cordoned
		n.Observe(node)
	}
	for _, want := range []string{"NodeNotSchedulable", "NodeSchedulable"} {
		select {
		case e := <-events.Events:
			if e != "Normal "+want+" Node n1 status is now: "+want {
				t.Errorf("event %q, want %s", e, want)
			}
		default:
			t.Errorf("no event %s", want)
		}
	}
	if len(events.Events) != 0 {
		t.Errorf("another event: %s", <-events.Events)
	}
}

// A node that counts as lost looks at its status as soon as it hears of that, and writes it.
func TestLostNodeReports(t *testing.T) {
	n, _ := testNode(t, fake.NewClientset(), nil)
	if err := n.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.report(t.Context(), false); err != nil {
		t.Fatal(err)
	}
	node, err := n.Get()
	if err != nil {
		t.Fatal(err)
	}
	for _, status := range []v1.ConditionStatus{v1.ConditionTrue, v1.ConditionUnknown} {
		lost := status == v1.ConditionUnknown
		node = node.DeepCopy()
		condition(&node.Status, v1.NodeReady).Status = status
		n.Observe(node)
		select {
		case <-n.kick:
			if !lost {
				t.Error("each change has the status be looked at")
			}
		default:
			if lost {
				t.Error("the status is not looked at")
			}
		}
		if wrote, _, err := n.report(t.Context(), false); err != nil || wrote != lost {
			t.Errorf("%s: wrote %t, %v", status, wrote, err)
		}
	}
}

func TestUnchangedStatusIsNotWritten(t *testing.T) {
	client := fake.NewClientset()
	n, _ := testNode(t, client, nil)
	if err := n.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i, want := range []bool{true, false, false} {
		wrote, ready, err := n.report(t.Context(), false)
		if err != nil || !ready || wrote != want {
			t.Errorf("report %d: wrote %v, ready %v, %v", i, wrote, ready, err)
		}
	}
	if wrote, _, err := n.report(t.Context(), true); err != nil || !wrote {
		t.Errorf("due report: wrote %v, %v", wrote, err)
	}
}

func TestDeletedNodeComesBack(t *testing.T) {
	client := fake.NewClientset()
	n, _ := testNode(t, client, nil)
	if err := n.register(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := client.CoreV1().Nodes().Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, _, err := n.report(t.Context(), true); !apierrors.IsNotFound(err) {
		t.Errorf("report: %v", err)
	}
	if wrote, _, err := n.report(t.Context(), true); err != nil || !wrote {
		t.Errorf("second report: wrote %v, %v", wrote, err)
	}
}

// A Node whose deletion the watch tells of is there again without waiting for the next report that is due, and so is its lease. What the
// watch tells late, of one that was replaced since, changes nothing.
func TestDeletionIsAnsweredAtOnce(t *testing.T) {
	client := fake.NewClientset()
	uids := 0 // the real server gives each its own
	client.PrependReactor("create", "nodes", func(a clienttesting.Action) (bool, runtime.Object, error) {
		uids++
		a.(clienttesting.CreateAction).GetObject().(*v1.Node).UID = types.UID(fmt.Sprint("uid-", uids))
		return false, nil, nil
	})
	n, _ := testNode(t, client, nil)
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	done := make(chan struct{})
	go func() { defer close(done); n.Run(ctx) }()
	defer func() { cancel(); <-done }()
	<-n.Registered()
	nodes := client.CoreV1().Nodes()
	first, err := n.Get()
	if err != nil {
		t.Fatal(err)
	}
	w, err := nodes.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer w.Stop()
	if err := nodes.Delete(ctx, "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	n.Gone(first)
	for ready := false; !ready; {
		select {
		case e := <-w.ResultChan():
			node := e.Object.(*v1.Node)
			ready = e.Type == watch.Modified && node.UID == "uid-2" && isReady(&node.Status)
		case <-ctx.Done():
			t.Fatal("the node is not there again")
		}
	}
	n.Gone(first)
	if n.isGone() {
		t.Error("what was told of the Node before counts for the one that there is now")
	}
}

// badRuntime is one whose network is not up, and that may be sick besides.
type badRuntime struct {
	*critest.Runtime
	sick bool
}

func (r badRuntime) Status(context.Context, bool) (*runtimeapi.StatusResponse, error) {
	return &runtimeapi.StatusResponse{Status: &runtimeapi.RuntimeStatus{Conditions: []*runtimeapi.RuntimeCondition{
		{Type: runtimeapi.RuntimeReady, Status: !r.sick, Reason: "R", Message: "m"}, {Type: runtimeapi.NetworkReady, Reason: "NetworkPluginNotReady", Message: "no plugin"},
	}}}, nil
}

func TestNotReady(t *testing.T) {
	n, _ := testNode(t, fake.NewClientset(), nil)
	n.cfg.Runtime = badRuntime{critest.New(), false}
	s := &v1.NodeStatus{}
	if _, err := n.fill(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	c := condition(s, v1.NodeReady)
	if c.Status != v1.ConditionFalse || c.Reason != "KubeletNotReady" ||
		c.Message != "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no plugin" {
		t.Errorf("condition %+v", c)
	}
	n.cfg.Runtime = badRuntime{critest.New(), true}
	if _, err := n.fill(t.Context(), s); err != nil {
		t.Fatal(err)
	}
	if c := condition(s, v1.NodeReady); c.Message != "[container runtime not ready: RuntimeReady=false reason:R message:m, "+
		"container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:no plugin]" {
		t.Errorf("condition %+v", c)
	}
}

func TestPatchReplacesAddresses(t *testing.T) {
	old := &v1.Node{ObjectMeta: metav1.ObjectMeta{UID: types.UID("u")}, Status: v1.NodeStatus{Addresses: []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "1.1.1.1"}}}}
	want := old.DeepCopy()
	want.Status.Addresses = []v1.NodeAddress{{Type: v1.NodeInternalIP, Address: "1.1.1.2"}, {Type: v1.NodeInternalIP, Address: "::2"}}
	patch, err := statusPatch(old, want)
	if err != nil {
		t.Fatal(err)
	}
	var body struct {
		Status map[string][]map[string]string
	}
	if err := json.Unmarshal(patch, &body); err != nil {
		t.Fatal(err)
	}
	list := body.Status["addresses"]
	if len(list) != 3 || list[1]["address"] != "::2" || list[2]["$patch"] != "replace" || len(body.Status) != 1 {
		t.Errorf("patch %s", patch)
	}
}

type plugged struct{ all, free v1.ResourceList }

func (p plugged) Capacity() (v1.ResourceList, v1.ResourceList) { return p.all, p.free }

// What device plugins say of their devices counts, whatever was there; what somebody else advertised stays.
func TestDevicesOfPlugins(t *testing.T) {
	n, _ := testNode(t, fake.NewClientset(), &pressure{})
	list := func(n string) v1.ResourceList { return v1.ResourceList{"example.com/gpu": resource.MustParse(n)} }
	n.cfg.Devices = plugged{list("3"), list("2")}
	s := &v1.NodeStatus{Capacity: list("8"), Allocatable: list("8")}
	s.Capacity["example.com/dongle"] = resource.MustParse("1")
	if err := n.resources(s); err != nil {
		t.Fatal(err)
	}
	all, free, dongles := s.Capacity["example.com/gpu"], s.Allocatable["example.com/gpu"], s.Allocatable["example.com/dongle"]
	if all.Value() != 3 || free.Value() != 2 || dongles.Value() != 1 {
		t.Errorf("capacity %v, allocatable %v", s.Capacity, s.Allocatable)
	}
}
