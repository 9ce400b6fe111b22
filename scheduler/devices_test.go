package scheduler

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/events"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/resourceclaim"
	"github.com/peapod/peapod/test/controltest"
)

const deviceDriver = "gpu.test.io"

// deviceWorld is a scheduler and the controller of claims on a real API server; the test plays the drivers and the kubelet.
type deviceWorld struct {
	*controltest.World
	events *events.FakeRecorder
	sched  *Scheduler
	// failing is how many bindings the API refuses.
	failing atomic.Int32
}

func startWithDevices(t *testing.T, server *servertest.Server, timeout time.Duration) *deviceWorld {
	t.Helper()
	w := &deviceWorld{events: events.NewFakeRecorder(1000)}
	w.World = controltest.StartOn(t, server, resourceclaim.New, func(d engine.Deps) (engine.Runner, error) {
		var err error
		w.sched, err = New(Config{Client: &refusing{d.Client, &w.failing}, Informers: d.Informers, Recorder: w.events, DeviceBindTimeout: timeout})
		return w.sched, err
	})
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Resource().V1().ResourceClaims().Informer())
	return w
}

// refusing is a client that refuses some bindings.
type refusing struct {
	kubernetes.Interface
	left *atomic.Int32
}

func (r *refusing) CoreV1() typedcorev1.CoreV1Interface {
	return &refusingCore{r.Interface.CoreV1(), r.left}
}

type refusingCore struct {
	typedcorev1.CoreV1Interface
	left *atomic.Int32
}

func (r *refusingCore) Pods(ns string) typedcorev1.PodInterface {
	return &refusingPods{r.CoreV1Interface.Pods(ns), r.left}
}

type refusingPods struct {
	typedcorev1.PodInterface
	left *atomic.Int32
}

func (r *refusingPods) Bind(ctx context.Context, b *corev1.Binding, o metav1.CreateOptions) error {
	if r.left.Add(-1) >= 0 {
		return errors.New("refused by the test")
	}
	return r.PodInterface.Bind(ctx, b, o)
}

// fillDevices makes the class "gpu", and nodes with so many devices each.
func fillDevices(t *testing.T, client kubernetes.Interface, devices int, nodes ...string) {
	t.Helper()
	must(t)(client.ResourceV1().DeviceClasses().Create(t.Context(), &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}, metav1.CreateOptions{}))
	for _, name := range nodes {
		n := node(name, map[string]string{corev1.LabelHostname: name})
		must(t)(client.CoreV1().Nodes().Create(t.Context(), n, metav1.CreateOptions{}))
		must(t)(client.CoreV1().Nodes().UpdateStatus(t.Context(), n, metav1.UpdateOptions{}))
		must(t)(client.ResourceV1().ResourceSlices().Create(t.Context(), gpus(name, devices), metav1.CreateOptions{}))
	}
}

func gpus(node string, devices int) *resourcev1.ResourceSlice {
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: node}, Spec: resourcev1.ResourceSliceSpec{
		Driver: deviceDriver, NodeName: &node, Pool: resourcev1.ResourcePool{Name: node, ResourceSliceCount: 1, Generation: 1}}}
	for i := range devices {
		s.Spec.Devices = append(s.Spec.Devices, resourcev1.Device{Name: fmt.Sprint("gpu-", i)})
	}
	return s
}

func gpuSpec() resourcev1.ResourceClaimSpec {
	return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}
}

func makeClaim(t *testing.T, client kubernetes.Interface, name string) *resourcev1.ResourceClaim {
	t.Helper()
	c, err := client.ResourceV1().ResourceClaims("default").Create(t.Context(),
		&resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: gpuSpec()}, metav1.CreateOptions{})
	must(t)(c, err)
	return c
}

// makePod makes one that names the claim; "template:NAME" is a template.
func makePod(t *testing.T, client kubernetes.Interface, name string, claims ...string) *corev1.Pod {
	t.Helper()
	p := pod(name, "")
	p.UID = ""
	p.Spec.Containers[0].Image = "image"
	for i, c := range claims {
		named := corev1.PodResourceClaim{Name: fmt.Sprint("claim-", i), ResourceClaimName: &c}
		if template, ok := strings.CutPrefix(c, "template:"); ok {
			named.ResourceClaimName, named.ResourceClaimTemplateName = nil, &template
		}
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, named)
	}
	p, err := client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	must(t)(p, err)
	return p
}

func (w *deviceWorld) claim(name string) *resourcev1.ResourceClaim {
	c, err := w.Informers.Resource().V1().ResourceClaims().Lister().ResourceClaims("default").Get(name)
	if err != nil {
		return &resourcev1.ResourceClaim{}
	}
	return c
}

func (w *deviceWorld) awaitNode(t *testing.T, pod string) string {
	t.Helper()
	return (&storeWorld{World: w.World, events: w.events}).awaitNode(t, pod)
}

func (w *deviceWorld) wantEvent(t *testing.T, want string) {
	t.Helper()
	(&storeWorld{World: w.World, events: w.events}).wantEvent(t, want)
}

// awaitEvents reads events up to one that contains last, and returns them all.
func (w *deviceWorld) awaitEvents(t *testing.T, last string) (all []string) {
	t.Helper()
	deadline := time.After(60 * time.Second)
	for {
		select {
		case e := <-w.events.Events:
			if all = append(all, e); strings.Contains(e, last) {
				return all
			}
		case <-deadline:
			t.Fatalf("no event with %q", last)
		}
	}
}

func (w *deviceWorld) deletePod(t *testing.T, name string) {
	t.Helper()
	if err := w.Client.CoreV1().Pods("default").Delete(t.Context(), name, metav1.DeleteOptions{GracePeriodSeconds: new(int64)}); err != nil {
		t.Fatal(err)
	}
}

// device is which one the claim has, "pool/device"; empty for none.
func device(c *resourcev1.ResourceClaim) string {
	if c.Status.Allocation == nil || len(c.Status.Allocation.Devices.Results) != 1 {
		return ""
	}
	r := c.Status.Allocation.Devices.Results[0]
	return r.Pool + "/" + r.Device
}

func users(c *resourcev1.ResourceClaim) []string {
	var out []string
	for _, r := range c.Status.ReservedFor {
		out = append(out, r.Name)
	}
	slices.Sort(out)
	return out
}

// A claim is made from its template, allocated, reserved and kept before the Pod is bound; nothing is told of what is not there yet.
func TestClaimsAreAllocatedAndReserved(t *testing.T) {
	w := startWithDevices(t, servertest.Start(t, nil), 0)
	fillDevices(t, w.Client, 1, "n1", "n2")
	makePod(t, w.Client, "plain")
	w.awaitNode(t, "plain")
	w.sched.mu.Lock()
	if w.sched.devicesWatched {
		t.Error("devices are watched though no Pod needs some")
	}
	w.sched.mu.Unlock()
	must(t)(w.Client.ResourceV1().ResourceClaimTemplates("default").Create(t.Context(), &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.ResourceClaimTemplateSpec{Spec: gpuSpec()}}, metav1.CreateOptions{}))
	makeClaim(t, w.Client, "first")
	makePod(t, w.Client, "first", "first")
	w.awaitNode(t, "first") // devices are known from here on
	p := makePod(t, w.Client, "p", "template:gpu", "own")
	early := makePod(t, w.Client, "early")
	w.awaitNode(t, early.Name) // by now p has been tried
	makeClaim(t, w.Client, "own")
	w.wantEvent(t, "Normal Scheduled Successfully assigned default/plain")
	for _, e := range w.awaitEvents(t, "FailedScheduling") {
		if strings.Contains(e, "FailedScheduling") {
			want := "0/2 nodes are available: 2 cannot allocate all claims. still not schedulable, preemption: 0/2 nodes are available: 2 Preemption is not helpful for scheduling."
			if e != "Warning FailedScheduling "+want {
				t.Errorf("the first it is told: %s", e)
			}
		}
	}
	must(t)(w.Client.ResourceV1().ResourceSlices().Update(t.Context(), withVersion(t, w, gpus("n2", 3)), metav1.UpdateOptions{}))
	if n := w.awaitNode(t, "p"); n != "n2" {
		t.Errorf("on %s", n)
	}
	now, err := w.Client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
	must(t)(now, err)
	for _, name := range []string{"own", *now.Status.ResourceClaimStatuses[0].ResourceClaimName} {
		c, err := w.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), name, metav1.GetOptions{})
		must(t)(c, err)
		if !strings.HasPrefix(device(c), "n2/") || !slices.Equal(users(c), []string{"p"}) || !slices.Contains(c.Finalizers, resourcev1.Finalizer) ||
			c.Status.ReservedFor[0].UID != p.UID || c.Status.Allocation.AllocationTimestamp == nil {
			t.Errorf("claim %s: finalizers %v, status %+v", name, c.Finalizers, c.Status)
		}
	}
}

// withVersion is s as an update of what is there.
func withVersion(t *testing.T, w *deviceWorld, s *resourcev1.ResourceSlice) *resourcev1.ResourceSlice {
	t.Helper()
	old, err := w.Client.ResourceV1().ResourceSlices().Get(t.Context(), s.Name, metav1.GetOptions{})
	must(t)(old, err)
	s.ResourceVersion = old.ResourceVersion
	return s
}

// Pods that come together do not get one device, and who waits for it gets it when its user has gone or is over.
func TestTheLastDevice(t *testing.T) {
	w := startWithDevices(t, servertest.Start(t, nil), 0)
	fillDevices(t, w.Client, 1, "n1")
	left := map[string]bool{}
	for i := range 3 {
		name := fmt.Sprint("p", i)
		left[name] = true
		makeClaim(t, w.Client, name)
	}
	for name := range left {
		makePod(t, w.Client, name, name)
	}
	for turn := range 3 {
		var has string
		w.Await(t, "one has the device", func() bool {
			has = ""
			for name := range left {
				if p, err := w.Informers.Core().V1().Pods().Lister().Pods("default").Get(name); err == nil && p.Spec.NodeName != "" {
					has = name
				}
			}
			return has != ""
		})
		delete(left, has)
		if device(w.claim(has)) != "n1/gpu-0" {
			c, err := w.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), has, metav1.GetOptions{})
			if must(t)(c, err); device(c) != "n1/gpu-0" {
				t.Fatalf("%s is bound with %q", has, device(c))
			}
		}
		for name := range left {
			c, err := w.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), name, metav1.GetOptions{})
			if must(t)(c, err); device(c) != "" {
				t.Fatalf("%s and %s have it", has, name)
			}
		}
		if turn == 1 {
			p, err := w.Client.CoreV1().Pods("default").Get(t.Context(), has, metav1.GetOptions{})
			must(t)(p, err)
			w.SetPhase(t, p, corev1.PodSucceeded)
		} else {
			w.deletePod(t, has)
		}
	}
	w.wantEvent(t, "0/1 nodes are available: 1 cannot allocate all claims. still not schedulable, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	w.Await(t, "nobody has anything", func() bool {
		for i := range 3 {
			if c := w.claim(fmt.Sprint("p", i)); c.Name != "" && (device(c) != "" || len(c.Finalizers) > 0) {
				return false
			}
		}
		return true
	})
}

// Pods that share a claim go where its device is, whoever comes first.
func TestClaimForDevicesIsShared(t *testing.T) {
	w := startWithDevices(t, servertest.Start(t, nil), 0)
	fillDevices(t, w.Client, 1, "n1", "n2", "n3")
	makeClaim(t, w.Client, "shared")
	var names []string
	for i := range 4 {
		names = append(names, fmt.Sprint("p", i))
		makePod(t, w.Client, names[i], "shared")
	}
	node := w.awaitNode(t, names[0])
	for _, name := range names[1:] {
		if n := w.awaitNode(t, name); n != node {
			t.Errorf("%s on %s, the first on %s", name, n, node)
		}
	}
	w.Await(t, "all are users", func() bool { return slices.Equal(users(w.claim("shared")), names) })
	if got := device(w.claim("shared")); got != node+"/gpu-0" {
		t.Errorf("device %s, Pods on %s", got, node)
	}
	for _, name := range names {
		w.deletePod(t, name)
	}
	w.Await(t, "the device is free", func() bool { c := w.claim("shared"); return device(c) == "" && len(users(c))+len(c.Finalizers) == 0 })
}

// What was written for a Pod that cannot be bound is taken back, and the next try has it again.
func TestBindingFailsWithDevices(t *testing.T) {
	w := startWithDevices(t, servertest.Start(t, nil), 0)
	fillDevices(t, w.Client, 1, "n1")
	must(t)(w.Client.ResourceV1().DeviceClasses().Create(t.Context(), standingFor("test.io/gpu"), metav1.CreateOptions{}))
	var mu sync.Mutex
	var history []string
	if _, err := w.Informers.Resource().V1().ResourceClaims().Informer().AddEventHandler(engine.OnSet(func(obj any) {
		mu.Lock()
		defer mu.Unlock()
		c := obj.(*resourcev1.ResourceClaim)
		if now := fmt.Sprint(device(c), users(c)); len(history) == 0 || history[len(history)-1] != now {
			history = append(history, now)
		}
	})); err != nil {
		t.Fatal(err)
	}
	w.failing.Store(1)
	makeClaim(t, w.Client, "own")
	makePod(t, w.Client, "p", "own")
	w.wantEvent(t, "Warning FailedScheduling binding rejected: refused by the test")
	w.awaitNode(t, "p")
	w.Await(t, "written again", func() bool { return len(users(w.claim("own"))) == 1 })
	w.deletePod(t, "p")
	w.Await(t, "deallocated", func() bool { return device(w.claim("own")) == "" })

	// The claim for an extended resource is deleted, and another one made.
	w.failing.Store(1)
	makeExtendedPod(t, w.Client, "x")
	w.wantEvent(t, "Warning FailedScheduling binding rejected: refused by the test")
	w.awaitNode(t, "x")
	x, err := w.Client.CoreV1().Pods("default").Get(t.Context(), "x", metav1.GetOptions{})
	must(t)(x, err)
	list, err := w.Client.ResourceV1().ResourceClaims("default").List(t.Context(), metav1.ListOptions{})
	must(t)(list, err)
	var left []string
	for i := range list.Items {
		if c := &list.Items[i]; c.Name != "own" {
			left = append(left, c.Name+" "+device(c)+fmt.Sprint(users(c)))
		}
	}
	if want := x.Status.ExtendedResourceClaimStatus.ResourceClaimName + " n1/gpu-0[x]"; !slices.Equal(left, []string{want}) {
		t.Errorf("claims %v, want %s", left, want)
	}
	mu.Lock()
	defer mu.Unlock()
	if want := []string{"[]", "n1/gpu-0[p]", "[]", "n1/gpu-0[p]", "[]"}; !slices.Equal(history[:5], want) {
		t.Errorf("history %v, want %v", history, want)
	}
}

func standingFor(resource string) *resourcev1.DeviceClass {
	return &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "standing"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: &resource}}
}

func makeExtendedPod(t *testing.T, client kubernetes.Interface, name string) *corev1.Pod {
	t.Helper()
	p := pod(name, "")
	p.UID = ""
	p.Spec.Containers[0].Image = "image"
	one := corev1.ResourceList{"test.io/gpu": resource.MustParse("1")}
	p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: one, Limits: one}
	p, err := client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{})
	must(t)(p, err)
	return p
}

// A Pod that requests a resource which a class stands for gets a claim of its own, and its containers know their part.
func TestExtendedResourcesByClass(t *testing.T) {
	w := startWithDevices(t, servertest.Start(t, nil), 0)
	fillDevices(t, w.Client, 1, "n1")
	makeExtendedPod(t, w.Client, "p")
	w.wantEvent(t, "0/1 nodes are available: 1 Insufficient test.io/gpu. no new claims to deallocate, preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.")
	must(t)(w.Client.ResourceV1().DeviceClasses().Create(t.Context(), standingFor("test.io/gpu"), metav1.CreateOptions{}))
	w.awaitNode(t, "p")
	p, err := w.Client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
	must(t)(p, err)
	status := p.Status.ExtendedResourceClaimStatus
	if status == nil || !slices.Equal(status.RequestMappings, []corev1.ContainerExtendedResourceRequest{
		{ContainerName: "c", ResourceName: "test.io/gpu", RequestName: "container-0-request-0"}}) {
		t.Fatalf("status %+v", status)
	}
	c, err := w.Client.ResourceV1().ResourceClaims("default").Get(t.Context(), status.ResourceClaimName, metav1.GetOptions{})
	must(t)(c, err)
	if device(c) != "n1/gpu-0" || !slices.Equal(users(c), []string{"p"}) || !strings.HasPrefix(c.Name, "p-extended-resources-") || !metav1.IsControlledBy(c, p) {
		t.Errorf("claim %+v", c)
	}
	makeExtendedPod(t, w.Client, "q")
	w.wantEvent(t, "1 cannot allocate all claims. still not schedulable, preemption:")
	w.deletePod(t, "p")
	// The test plays the garbage collector.
	if err := w.Client.ResourceV1().ResourceClaims("default").Delete(t.Context(), c.Name, metav1.DeleteOptions{}); err != nil && !apierrors.IsNotFound(err) {
		t.Fatal(err)
	}
	w.awaitNode(t, "q")
}

// A rule keeps Pods from devices until it goes.
func TestRulesTaintDevices(t *testing.T) {
	w := startWithDevices(t, servertest.Start(t, nil), 0)
	fillDevices(t, w.Client, 1, "n1")
	rules := w.Client.ResourceV1().DeviceTaintRules()
	must(t)(rules.Create(t.Context(), &resourcev1.DeviceTaintRule{ObjectMeta: metav1.ObjectMeta{Name: "maintenance"}, Spec: resourcev1.DeviceTaintRuleSpec{
		DeviceSelector: &resourcev1.DeviceTaintSelector{}, Taint: resourcev1.DeviceTaint{Key: "k", Effect: resourcev1.DeviceTaintEffectNoSchedule}}}, metav1.CreateOptions{}))
	makeClaim(t, w.Client, "p")
	makePod(t, w.Client, "p", "p")
	w.awaitEvents(t, "FailedScheduling 0/1 nodes are available: 1 cannot allocate all claims")
	if err := rules.Delete(t.Context(), "maintenance", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.awaitNode(t, "p")
}
