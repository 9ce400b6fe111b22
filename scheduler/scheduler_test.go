package scheduler

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	apiwatch "k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/events"

	"github.com/peapod/peapod/scheduler/metrics"
)

// harness is a scheduler on a client-go fake whose bindings set the Pod's node, as the API server's do.
type harness struct {
	client *fake.Clientset
	stop   func()      // and wait until the scheduler has ended
	bound  chan string // "pod node"
	events *events.FakeRecorder
}

func start(t *testing.T, objects ...runtime.Object) *harness {
	t.Helper()
	return startCounting(t, nil, objects...)
}

// startCounting starts a scheduler that has metrics.
func startCounting(t *testing.T, set *metrics.Set, objects ...runtime.Object) *harness {
	t.Helper()
	h := &harness{client: fake.NewClientset(objects...), bound: make(chan string, 100), events: events.NewFakeRecorder(100)}
	h.client.PrependReactor("create", "pods", func(a clienttesting.Action) (bool, runtime.Object, error) {
		if a.GetSubresource() != "binding" {
			return false, nil, nil
		}
		b := a.(clienttesting.CreateAction).GetObject().(*corev1.Binding)
		obj, err := h.client.Tracker().Get(corev1.SchemeGroupVersion.WithResource("pods"), b.Namespace, b.Name)
		if err != nil {
			return true, nil, err
		}
		pod := obj.(*corev1.Pod).DeepCopy()
		pod.Spec.NodeName = b.Target.Name
		err = h.client.Tracker().Update(corev1.SchemeGroupVersion.WithResource("pods"), pod, b.Namespace)
		h.bound <- b.Name + " " + b.Target.Name
		return true, b, err
	})
	factory := informers.NewSharedInformerFactory(h.client, 0)
	s, err := New(Config{Client: h.client, Informers: factory, Recorder: h.events, Metrics: set})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	watching := h.watching("pods", "nodes", "persistentvolumeclaims", "persistentvolumes")
	factory.Start(ctx.Done())
	watching(t)
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	h.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		factory.Shutdown()
	})
	t.Cleanup(h.stop)
	return h
}

// watching returns what waits until the resources are watched: what a fake is told between a list and the watch that follows it, no informer
// hears of.
func (h *harness) watching(resources ...string) (wait func(*testing.T)) {
	begun := map[string]chan struct{}{}
	for _, r := range resources {
		begun[r] = make(chan struct{}, 100)
	}
	h.client.PrependWatchReactor("*", func(a clienttesting.Action) (bool, apiwatch.Interface, error) {
		w, err := h.client.Tracker().Watch(a.GetResource(), a.GetNamespace())
		if c := begun[a.GetResource().Resource]; c != nil {
			c <- struct{}{}
		}
		return true, w, err
	})
	return func(t *testing.T) {
		t.Helper()
		for _, r := range resources {
			select {
			case <-begun[r]:
			case <-time.After(60 * time.Second):
				t.Fatalf("%s are not watched", r)
			}
		}
	}
}

func (h *harness) wantBound(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-h.bound:
		if got != want {
			t.Fatalf("bound %q, want %q", got, want)
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("nothing bound, want %q", want)
	}
}

func (h *harness) wantEvent(t *testing.T, want string) {
	t.Helper()
	select {
	case got := <-h.events.Events:
		if got != want {
			t.Fatalf("event\n%s\nwant\n%s", got, want)
		}
	case <-time.After(60 * time.Second):
		t.Fatalf("no event, want %q", want)
	}
}

// wantEvents wants these events next, in any order.
func (h *harness) wantEvents(t *testing.T, want ...string) {
	t.Helper()
	var got []string
	for range want {
		select {
		case e := <-h.events.Events:
			got = append(got, e)
		case <-time.After(60 * time.Second):
			t.Fatalf("events %q, want %q", got, want)
		}
	}
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Fatalf("events %q, want %q", got, want)
	}
}

func node(name string, labels map[string]string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status: corev1.NodeStatus{Allocatable: corev1.ResourceList{
			corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("110")}},
	}
}

func pod(name, cpu string) *corev1.Pod {
	p := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec:       corev1.PodSpec{SchedulerName: corev1.DefaultSchedulerName, Containers: []corev1.Container{{Name: "c"}}},
	}
	if cpu != "" {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	return p
}

func TestWaitsForLabelAndWakesWhenItAppears(t *testing.T) {
	p := pod("gpu", "")
	p.Spec.NodeSelector = map[string]string{"gpu": "true"}
	h := start(t, node("n1", nil), p)
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. "+
		"no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	if _, err := h.client.CoreV1().Nodes().Update(t.Context(), node("n1", map[string]string{"gpu": "true"}), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantBound(t, "gpu n1")
	h.wantEvent(t, "Normal Scheduled Successfully assigned default/gpu to n1")
}

func TestWaitsForRoomAndWakesWhenAPodLeaves(t *testing.T) {
	big := pod("big", "1500m")
	big.Spec.NodeName = "n1"
	h := start(t, node("n1", nil), big, pod("small", "1"))
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu. "+
		"no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	if err := h.client.CoreV1().Pods("default").Delete(t.Context(), "big", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantBound(t, "small n1")
}

func TestCountsPodsThatAreBeingBound(t *testing.T) {
	h := start(t, node("n1", nil))
	for i := range 3 {
		if _, err := h.client.CoreV1().Pods("default").Create(t.Context(), pod(fmt.Sprint("p", i), "900m"), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{<-h.bound: true, <-h.bound: true}
	if len(seen) != 2 {
		t.Fatalf("bound %v", seen)
	}
	for e := range h.events.Events {
		if e == "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod." {
			break
		}
	}
	select {
	case b := <-h.bound:
		t.Fatalf("%s was bound where it does not fit", b)
	default:
	}
}

func TestTaintsCordonPortsAndGates(t *testing.T) {
	tainted := node("tainted", nil)
	tainted.Spec.Taints = []corev1.Taint{{Key: "k", Value: "v", Effect: corev1.TaintEffectNoSchedule}}
	cordoned := node("cordoned", nil)
	cordoned.Spec.Unschedulable = true
	taken := pod("taken", "")
	taken.Spec.NodeName = "used"
	taken.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, Protocol: corev1.ProtocolTCP}}
	p := pod("p", "")
	p.Spec.Containers[0].Ports = []corev1.ContainerPort{{HostPort: 80, Protocol: corev1.ProtocolTCP, HostIP: "127.0.0.1"}}
	gated := pod("gated", "")
	gated.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "wait"}}
	h := start(t, tainted, cordoned, node("used", nil), taken, p, gated)
	h.wantEvent(t, "Warning FailedScheduling 0/3 nodes are available: 1 node(s) didn't have free ports for the requested pod ports, "+
		"1 node(s) had untolerated taint(s), 1 node(s) were unschedulable. no new claims to deallocate, preemption: 0/3 nodes are available: "+
		"1 No preemption victims found for incoming pod, 2 Preemption is not helpful for scheduling.")
	cordoned = cordoned.DeepCopy()
	cordoned.Spec.Unschedulable = false
	if _, err := h.client.CoreV1().Nodes().Update(t.Context(), cordoned, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantBound(t, "p cordoned")
}

func prioritized(p *corev1.Pod, priority int32) *corev1.Pod {
	p.Spec.Priority = &priority
	return p
}

func TestPreemptsTheLeastImportant(t *testing.T) {
	running := func(name string, priority int32, cpu string) *corev1.Pod {
		p := prioritized(pod(name, cpu), priority)
		p.Spec.NodeName = "n1"
		return p
	}
	vip := prioritized(pod("vip", "1"), 1000)
	h := start(t, node("n1", nil), running("low", 1, "900m"), running("middle", 10, "900m"), vip)
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu.")
	h.wantBound(t, "vip n1")
	// The room is taken as soon as it is there, so that either may be told first.
	h.wantEvents(t, "Normal Preempted Preempted by pod vip on node n1", "Normal Scheduled Successfully assigned default/vip to n1")
	left, err := h.client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	names := map[string]bool{}
	for _, p := range left.Items {
		names[p.Name] = true
	}
	if names["low"] || !names["middle"] {
		t.Errorf("left: %v, want low preempted and middle kept", names)
	}
}

func TestNeverPreempts(t *testing.T) {
	low := prioritized(pod("low", "2"), 1)
	low.Spec.NodeName = "n1"
	vip := prioritized(pod("vip", "1"), 1000)
	never := corev1.PreemptNever
	vip.Spec.PreemptionPolicy = &never
	h := start(t, node("n1", nil), low, vip)
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu. no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.")
}

// Room that was made for an important Pod is not for one of lower priority that comes in between.
func TestPromisedRoomIsKept(t *testing.T) {
	vip := prioritized(pod("vip", "1500m"), 1000)
	vip.Status.NominatedNodeName = "n1"
	vip.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "test"}}
	h := start(t, node("n1", nil))
	// The gate keeps it out of the queue; its promise counts once it is in.
	if _, err := h.client.CoreV1().Pods("default").Create(t.Context(), vip, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	vip = vip.DeepCopy()
	vip.Spec.SchedulingGates = nil
	vip.Spec.NodeSelector = map[string]string{"later": "yes"}
	never := corev1.PreemptNever // else the promise is taken back when preemption cannot help
	vip.Spec.PreemptionPolicy = &never
	if _, err := h.client.CoreV1().Pods("default").Update(t.Context(), vip, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 node(s) didn't match Pod's node affinity/selector. "+
		"no new claims to deallocate, preemption: not eligible due to preemptionPolicy=Never.")
	if _, err := h.client.CoreV1().Pods("default").Create(t.Context(), prioritized(pod("small", "1"), 0), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantEvent(t, "Warning FailedScheduling 0/1 nodes are available: 1 Insufficient cpu. "+
		"no new claims to deallocate, preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod.")
	if _, err := h.client.CoreV1().Nodes().Update(t.Context(), node("n1", map[string]string{"later": "yes"}), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	h.wantBound(t, "vip n1")
}
