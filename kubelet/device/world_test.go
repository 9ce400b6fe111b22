package device

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/internal/testwait"
	"github.com/peapod/peapod/kubelet/device/devicetest"
	"github.com/peapod/peapod/kubelet/pod"
)

const gpus = "example.com/gpu"

// world is a node with a kubelet's directory. Plugins are real but for their devices.
type world struct {
	t    *testing.T
	root string
	m    *Manager
	stop func()
	// counted and woken tell of the callbacks.
	counted chan struct{}
	woken   chan types.UID
}

func start(t *testing.T) *world {
	t.Helper()
	root, err := os.MkdirTemp("", "dp") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(root) })
	w := &world{t: t, root: root}
	w.run(nil)
	return w
}

// run is a start of the kubelet; the last one must have stopped.
func (w *world) run(change func(*Manager)) {
	w.t.Helper()
	w.counted, w.woken = make(chan struct{}, 1), make(chan types.UID, 100)
	counted, woken := w.counted, w.woken
	w.m = New(Config{RootDir: w.root, Extended: func(n v1.ResourceName) bool { return strings.HasPrefix(string(n), "example.com/") },
		Counted: func() {
			select {
			case counted <- struct{}{}:
			default:
			}
		}, Changed: func(uid types.UID) { woken <- uid }})
	if change != nil {
		change(w.m)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() {
		if err := w.m.Run(ctx); err != nil {
			w.t.Error(err)
		}
	})
	w.stop = sync.OnceFunc(func() { cancel(); running.Wait() })
	w.t.Cleanup(w.stop)
	devicetest.AwaitKubelet(w.t, w.kubeletSocket())
}

func (w *world) kubeletSocket() string {
	return filepath.Join(w.root, "device-plugins", "kubelet.sock")
}

// plug is a device plugin.
type plug struct {
	devicetest.Plugin
	w       *world
	name    string
	options api.DevicePluginOptions

	mu sync.Mutex
	// calls are what it was asked; answer, prefer and started are what it does then, if set.
	calls   []string
	answer  func(ctx context.Context, ids []string) (*api.AllocateResponse, error)
	prefer  func(available, must []string, n int) []string
	started error
}

func (p *plug) GetDevicePluginOptions(context.Context, *api.Empty) (*api.DevicePluginOptions, error) {
	return &p.options, nil
}

func (p *plug) call(what string, ids []string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.calls = append(p.calls, what+" "+strings.Join(ids, ","))
}

// asked returns what it was asked since the last time.
func (p *plug) asked() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	out := strings.Join(p.calls, "; ")
	p.calls = nil
	return out
}

// does sets what it answers when it is asked for devices; nil is what such a plugin does.
func (p *plug) does(answer func(context.Context, []string) (*api.AllocateResponse, error)) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.answer = answer
}

// starts sets what it says of starts of containers.
func (p *plug) starts(err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = err
}

func (p *plug) Allocate(ctx context.Context, r *api.AllocateRequest) (*api.AllocateResponse, error) {
	ids := r.ContainerRequests[0].DevicesIds
	p.call("allocate", ids)
	p.mu.Lock()
	answer := p.answer
	p.mu.Unlock()
	if answer != nil {
		return answer(ctx, ids)
	}
	a := &api.ContainerAllocateResponse{Envs: map[string]string{"GPUS": strings.Join(ids, ",")}, Annotations: map[string]string{"example.com/gpus": fmt.Sprint(len(ids))},
		Mounts: []*api.Mount{{ContainerPath: "/lib", HostPath: "/host/lib", ReadOnly: true}}, CdiDevices: []*api.CDIDevice{{Name: "example.com/gpu=" + ids[0]}}}
	for _, id := range ids {
		a.Devices = append(a.Devices, &api.DeviceSpec{ContainerPath: "/dev/" + id, HostPath: "/dev/host-" + id, Permissions: "rw"})
	}
	return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{a}}, nil
}

func (p *plug) GetPreferredAllocation(_ context.Context, r *api.PreferredAllocationRequest) (*api.PreferredAllocationResponse, error) {
	c := r.ContainerRequests[0]
	available := slices.Sorted(slices.Values(c.AvailableDeviceIDs))
	p.call(fmt.Sprintf("prefer %d of", c.AllocationSize), append(available, "must", strings.Join(c.MustIncludeDeviceIDs, "+")))
	return &api.PreferredAllocationResponse{ContainerResponses: []*api.ContainerPreferredAllocationResponse{
		{DeviceIDs: p.prefer(available, c.MustIncludeDeviceIDs, int(c.AllocationSize))}}}, nil
}

func (p *plug) PreStartContainer(_ context.Context, r *api.PreStartContainerRequest) (*api.PreStartContainerResponse, error) {
	p.call("start", r.DevicesIds)
	p.mu.Lock()
	defer p.mu.Unlock()
	return &api.PreStartContainerResponse{}, p.started
}

// serve has a plugin listen in the directory, at a socket of that name.
func (w *world) serve(p *plug, base string) string {
	w.t.Helper()
	p.w = w
	socket := filepath.Join(w.root, "device-plugins", base)
	p.Serve(w.t, p, socket)
	return socket
}

// register asks the kubelet to register a plugin.
func (w *world) register(r *api.RegisterRequest) error {
	w.t.Helper()
	return devicetest.Register(w.t.Context(), w.kubeletSocket(), r)
}

// plugin starts a plugin with devices, and waits until the node counts them.
func (w *world) plugin(p *plug, base string, devices ...*api.Device) *plug {
	w.t.Helper()
	p.name = gpus
	w.serve(p, base)
	if err := w.register(&api.RegisterRequest{Version: api.Version, Endpoint: base, ResourceName: p.name}); err != nil {
		w.t.Fatal(err)
	}
	p.list(devices...)
	return p
}

// list tells which devices there are, and waits until the kubelet knows.
func (p *plug) list(devices ...*api.Device) {
	p.w.t.Helper()
	healthy := 0
	for _, d := range devices {
		if d.Health == api.Healthy {
			healthy++
		}
	}
	p.Lists <- devices
	p.w.has(p.name, len(devices), healthy)
}

// has waits until the node has so many devices of a resource, and so many for Pods.
func (w *world) has(name string, all, free int) {
	w.t.Helper()
	testwait.Until(w.t, func() string {
		return fmt.Sprintf("%s has %d devices, %d for Pods: %v", name, all, free, w.counts(name))
	}, testwait.Polling(), func() bool {
		return w.counts(name) == [2]int64{int64(all), int64(free)}
	})
}

func (w *world) counts(name string) [2]int64 {
	all, free := w.m.Capacity()
	a, f := all[v1.ResourceName(name)], free[v1.ResourceName(name)]
	return [2]int64{a.Value(), f.Value()}
}

func healthy(ids ...string) (list []*api.Device) {
	for i, id := range ids {
		list = append(list, &api.Device{ID: id, Health: api.Healthy, Topology: &api.TopologyInfo{Nodes: []*api.NUMANode{{ID: int64(i)}}}})
	}
	return list
}

// asking is a Pod with a container for each number of devices.
func asking(name string, n ...int64) *v1.Pod {
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	for i, n := range n {
		p.Spec.Containers = append(p.Spec.Containers, container(fmt.Sprintf("c%d", i), n))
	}
	return p
}

func container(name string, n int64) v1.Container {
	q := v1.ResourceList{gpus: *resource.NewQuantity(n, resource.DecimalSI), v1.ResourceCPU: resource.MustParse("1")}
	return v1.Container{Name: name, Resources: v1.ResourceRequirements{Limits: q, Requests: q}}
}

func nobody() []types.UID { return nil }

// admit gives a Pod its devices.
func (w *world) admit(p *v1.Pod) *pod.Refusal {
	w.t.Helper()
	r, err := w.m.Allocate(w.t.Context(), p, nobody)
	if err != nil {
		w.t.Fatal(err)
	}
	return r
}

func (w *world) admitted(p *v1.Pod) {
	w.t.Helper()
	if r := w.admit(p); r != nil {
		w.t.Fatalf("pod %s is refused: %s: %s", p.Name, r.Reason, r.Message)
	}
}

// refused wants a Pod to be refused for a reason.
func (w *world) refused(p *v1.Pod, want string) {
	w.t.Helper()
	r := w.admit(p)
	if r == nil || r.Reason != "UnexpectedAdmissionError" || !strings.HasPrefix(r.Message, "Allocate failed due to ") || !strings.HasSuffix(r.Message, ", which is unexpected") || !strings.Contains(r.Message, want) {
		w.t.Errorf("refused with %+v, want %q", r, want)
	}
	if got := w.of(p); got != "" {
		w.t.Errorf("a refused pod has %s", got)
	}
}

// of is what monitors are told that a Pod has.
func (w *world) of(p *v1.Pod) string {
	var all []string
	add := func(c *v1.Container) {
		for _, d := range w.m.Devices(p, c) {
			all = append(all, c.Name+"="+d.DeviceIds[0])
		}
	}
	for i := range p.Spec.InitContainers {
		add(&p.Spec.InitContainers[i])
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return strings.Join(all, " ")
}

func (w *world) wantOf(p *v1.Pod, want string) {
	w.t.Helper()
	if got := w.of(p); got != want {
		w.t.Errorf("pod %s has %q, want %q", p.Name, got, want)
	}
}
