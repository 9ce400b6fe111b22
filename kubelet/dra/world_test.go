package dra

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/kubeletplugin"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/internal/testwait"
	"github.com/peapod/peapod/kubelet/plugin"
	"github.com/peapod/peapod/kubelet/pod"
	drivers "github.com/peapod/peapod/test/images/dradriver/driver"
)

const (
	driverName = "d.example.com"
	patience   = 2 * time.Minute
)

// world is a node with a kubelet's directory, and an API server. Drivers are real but for their devices.
type world struct {
	t      *testing.T
	root   string
	client kubernetes.Interface
	dra    *Manager
	stop   func()
	// woken has the Pods whose devices' health has changed.
	woken chan types.UID

	mu     sync.Mutex
	before func(what string, claim types.UID) error
	calls  []string
}

func start(t *testing.T) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "dra") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	w := &world{t: t, root: root, woken: make(chan types.UID, 100), client: servertest.Start(t, nil).Client(t)}
	if _, err := w.client.CoreV1().Nodes().Create(t.Context(), &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1", Labels: map[string]string{"rack": "r1"}}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := w.client.CoreV1().Namespaces().Create(t.Context(), &v1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.run(wipeDelay)
	return w
}

// run is a start of the kubelet; the last one must have stopped.
func (w *world) run(delay time.Duration) {
	w.dra = New(Config{Client: w.client, NodeName: "n1", RootDir: w.root, Node: func() (*v1.Node, error) {
		return w.client.CoreV1().Nodes().Get(context.Background(), "n1", metav1.GetOptions{})
	}, Changed: func(uid types.UID) { w.woken <- uid }})
	w.dra.wipeDelay = delay
	w.dra.Open()
	watcher := plugin.New(filepath.Join(w.root, "plugins_registry"), map[string]plugin.Handler{registerapi.DRAPlugin: w.dra})
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		defer w.dra.Close()
		if err := watcher.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	w.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(w.stop)
}

// driver starts a driver, of which there may be another when it has a Pod of its own, and waits until it can be spoken with.
func (w *world) driver(change func(*drivers.Config)) *drivers.Driver {
	w.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	cfg := drivers.Config{Name: driverName, Node: "n1", Client: w.client, Kubelet: w.root, CDI: filepath.Join(w.root, "cdi"), Before: w.seen}
	if change != nil {
		change(&cfg)
	}
	w.dra.mu.Lock()
	news, had := w.dra.news, w.connected(cfg.Name)
	w.dra.mu.Unlock()
	d, err := drivers.Start(ctx, cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() { cancel(); d.Stop() })
	for end := time.After(patience); ; {
		select {
		case <-news:
		case <-end:
			w.t.Fatal("the driver is not registered")
		}
		w.dra.mu.Lock()
		n := w.connected(cfg.Name)
		news = w.dra.news
		w.dra.mu.Unlock()
		if n > had {
			return d
		}
	}
}

// connected counts the programs of a driver that can be spoken with. The caller holds mu.
func (w *world) connected(name string) (n int) {
	for _, d := range w.dra.drivers[name] {
		if d.connected {
			n++
		}
	}
	return n
}

func (w *world) seen(_ context.Context, what string, claim types.UID) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = append(w.calls, what)
	if w.before != nil {
		return w.before(what, claim)
	}
	return nil
}

func (w *world) intercept(f func(what string, claim types.UID) error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.before = f
}

func (w *world) called() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return strings.Join(w.calls, " ")
}

// until waits for what there is no event for.
func (w *world) until(what string, ok func() bool) {
	w.t.Helper()
	testwait.Until(w.t, w.waiting(what), testwait.Polling(), ok)
}

func (w *world) waiting(what string) func() string {
	return func() string { return what + "; calls: " + w.called() }
}

// untilDriver waits for what comes about when a driver comes, or can be spoken with again.
func (w *world) untilDriver(what string, ok func() bool) {
	w.t.Helper()
	testwait.Until(w.t, w.waiting(what), func() <-chan struct{} {
		w.dra.mu.Lock()
		defer w.dra.mu.Unlock()
		return w.dra.news
	}, ok)
}

// untilSlices waits until these are all ResourceSlices.
func (w *world) untilSlices(what string, want ...string) {
	w.t.Helper()
	watcher, err := w.client.ResourceV1().ResourceSlices().Watch(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	defer watcher.Stop()
	testwait.Until(w.t, w.waiting(what), watcher.ResultChan, func() bool { return slices.Equal(w.slices(), want) })
}

// claim makes a claim that is allocated devices of driver d, by request, and reserved for Pods.
func (w *world) claim(name string, change func(*resourcev1.ResourceClaim), pods ...*v1.Pod) *resourcev1.ResourceClaim {
	w.t.Helper()
	c := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "first", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "c", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}},
		{Name: "second", FirstAvailable: []resourcev1.DeviceSubRequest{{Name: "big", DeviceClassName: "c", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1}}},
	}}}}
	result := func(request, device string) resourcev1.DeviceRequestAllocationResult {
		return resourcev1.DeviceRequestAllocationResult{Request: request, Driver: driverName, Pool: "n1", Device: device}
	}
	c.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		result("first", "device-0"), result("second/big", "device-1")}}}
	for _, p := range pods {
		c.Status.ReservedFor = append(c.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID})
	}
	if change != nil {
		change(c)
	}
	status := c.Status
	claims := w.client.ResourceV1().ResourceClaims("ns")
	c, err := claims.Create(w.t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	c.Status = status
	if c, err = claims.UpdateStatus(w.t.Context(), c, metav1.UpdateOptions{}); err != nil {
		w.t.Fatal(err)
	}
	return c
}

// user is a Pod with claims, each under its own name, and a container that has all of them.
func user(name string, claims ...string) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("uid-" + name)}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "app"}}}}
	for _, c := range claims {
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, v1.PodResourceClaim{Name: c, ResourceClaimName: &c})
		p.Spec.Containers[0].Resources.Claims = append(p.Spec.Containers[0].Resources.Claims, v1.ResourceClaim{Name: c})
	}
	return p
}

// ready says whether a RetryError told that there is reason to try again.
func ready(t *testing.T, err error) <-chan struct{} {
	t.Helper()
	var again *pod.RetryError
	if !errors.As(err, &again) || again.Ready == nil {
		t.Fatalf("%v does not say when to try again", err)
	}
	return again.Ready
}

// files are the names of what is written down of claims.
func (w *world) files() (list []string) {
	w.t.Helper()
	entries, err := os.ReadDir(filepath.Join(w.root, "claims"))
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

// slice is a ResourceSlice as a driver makes it.
func (w *world) slice(name, driver, node string) {
	w.t.Helper()
	s := &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceSliceSpec{Driver: driver, NodeName: &node,
		Pool: resourcev1.ResourcePool{Name: node, Generation: 1, ResourceSliceCount: 1}}}
	if _, err := w.client.ResourceV1().ResourceSlices().Create(w.t.Context(), s, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
		w.t.Fatal(err)
	}
}

// slices are the names of all ResourceSlices, sorted.
func (w *world) slices() (list []string) {
	w.t.Helper()
	all, err := w.client.ResourceV1().ResourceSlices().List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, s := range all.Items {
		list = append(list, s.Name)
	}
	slices.Sort(list)
	return list
}

// rolling has a driver whose Pod is one of several.
func rolling(uid types.UID) func(*drivers.Config) {
	return func(c *drivers.Config) { c.Pod = uid }
}

// old has a driver speak the older version only.
func old(c *drivers.Config) { c.Options = append(c.Options, kubeletplugin.NodeV1(false)) }
