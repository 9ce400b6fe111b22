package pod_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/pod"
)

// plugins have as many devices as there are Pods, and remember who has one.
type plugins struct {
	mu    sync.Mutex
	of    map[types.UID]bool
	ceded map[types.UID]bool // as they were told at the last admission
	// refuse is why no Pod may have one, hang whose admission hangs until it is given up; asked tells of that.
	refuse *pod.Refusal
	hang   types.UID
	asked  chan struct{}
	err    error // of Given
}

func newPlugins() *plugins {
	return &plugins{of: map[types.UID]bool{}, asked: make(chan struct{}, 1)}
}

func (d *plugins) Allocate(ctx context.Context, p *v1.Pod, ceded func() []types.UID) (*pod.Refusal, error) {
	d.mu.Lock()
	d.ceded = map[types.UID]bool{}
	for _, uid := range ceded() {
		d.ceded[uid] = true
	}
	refuse, hang := d.refuse, d.hang == p.UID
	if refuse == nil {
		d.of[p.UID] = true
	}
	d.mu.Unlock()
	if hang {
		d.asked <- struct{}{}
		<-ctx.Done()
		return nil, ctx.Err()
	}
	return refuse, nil
}

func (d *plugins) Given(context.Context, *v1.Pod, *v1.Container) (*criconfig.Given, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.err != nil {
		return nil, d.err
	}
	return &criconfig.Given{
		Envs:    []*runtimeapi.KeyValue{{Key: "GPU", Value: []byte("g0")}, {Key: "OWN", Value: []byte("not this")}},
		Mounts:  []*runtimeapi.Mount{{ContainerPath: "/lib", HostPath: "/host"}},
		Devices: []*runtimeapi.Device{{ContainerPath: "/dev/g0", HostPath: "/dev/zero", Permissions: "rw"}}, CDI: []string{"example.com/gpu=g0"},
		Annotations: map[string]string{"example.com/gpu": "g0", criconfig.AnnotationHash: "not this"},
	}, nil
}

func (d *plugins) Health(p *v1.Pod, _ *v1.Container) []v1.ResourceStatus {
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.of[p.UID] {
		return nil
	}
	return []v1.ResourceStatus{{Name: "example.com/gpu", Resources: []v1.ResourceHealth{{ResourceID: "g0", Health: v1.ResourceHealthStatusHealthy}}}}
}

func (d *plugins) Release(uid types.UID) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.of, uid)
	return nil
}

func (d *plugins) Pods() (list []types.UID) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for uid := range d.of {
		list = append(list, uid)
	}
	return list
}

// counting is a Pod that asks for a device.
func counting(p *v1.Pod) {
	p.Spec.Containers[0].Resources.Limits = v1.ResourceList{"example.com/gpu": resource.MustParse("1")}
	p.Spec.Containers[0].Env = []v1.EnvVar{{Name: "OWN", Value: "own"}}
	p.Spec.Containers[0].Args = []string{"$(GPU)"}
}

// TestGivenDevices: what device plugins give to a container is in its configuration, under what its Pod says; it is waited for, and given
// back.
func TestGivenDevices(t *testing.T) {
	s := newStage(t)
	s.plugins = newPlugins()
	back := make(chan struct{})
	s.plugins.err = &pod.RetryError{Err: errors.New("endpoint has been stopped"), Ready: back}
	s.start()
	p := onePod("a", counting)
	s.m.Upsert(p)
	s.until(p, "waits for the plugin", func(st v1.PodStatus) bool {
		c := st.ContainerStatuses
		return len(c) == 1 && c[0].State.Waiting != nil && c[0].State.Waiting.Reason == "CreateContainerConfigError" && c[0].State.Waiting.Message == "endpoint has been stopped"
	})
	s.plugins.mu.Lock()
	s.plugins.err = nil
	s.plugins.mu.Unlock()
	close(back)
	status := s.until(p, "runs", running)
	if told := status.ContainerStatuses[0].AllocatedResourcesStatus; len(told) != 1 || told[0].Name != "example.com/gpu" {
		t.Errorf("health %v", told)
	}
	c := s.rt.Configs()["main"]
	env := map[string]string{}
	for _, kv := range c.Envs {
		env[kv.Key] += string(kv.Value)
	}
	if env["GPU"] != "g0" || env["OWN"] != "own" || !slices.Equal(c.Args, []string{"g0"}) {
		t.Errorf("variables %v, arguments %v", env, c.Args)
	}
	if c.Annotations["example.com/gpu"] != "g0" || c.Annotations[criconfig.AnnotationHash] == "not this" {
		t.Errorf("annotations %v", c.Annotations)
	}
	if len(c.Devices) != 1 || c.Devices[0].ContainerPath != "/dev/g0" || len(c.CDIDevices) != 1 || c.CDIDevices[0].Name != "example.com/gpu=g0" || c.Mounts[0].ContainerPath != "/lib" {
		t.Errorf("devices %v, %v, mounts %v", c.Devices, c.CDIDevices, c.Mounts)
	}
	s.m.Upsert(deleted(p, 1))
	s.gone(p)
	if left := s.plugins.Pods(); len(left) > 0 {
		t.Errorf("not given back: %v", left)
	}
}

// TestRefusedDevices: a Pod that cannot have its devices fails, and those who come later are told that what it has is free.
func TestRefusedDevices(t *testing.T) {
	s := newStage(t)
	s.plugins = newPlugins()
	s.plugins.refuse = &pod.Refusal{Reason: "UnexpectedAdmissionError", Message: "Allocate failed due to no devices, which is unexpected"}
	s.start()
	p := onePod("a", counting)
	s.m.Upsert(p)
	status := s.until(p, "is refused", func(st v1.PodStatus) bool { return st.Phase == v1.PodFailed })
	if status.Reason != "UnexpectedAdmissionError" || status.Message != "Allocate failed due to no devices, which is unexpected" || !s.rt.Empty() {
		t.Errorf("status %+v; the runtime was asked %v", status, s.rt.Calls())
	}
	s.plugins.mu.Lock()
	s.plugins.refuse = nil
	s.plugins.mu.Unlock()
	// One that has its devices, and is refused for something else, gives them back.
	elsewhere := onePod("c", func(p *v1.Pod) { counting(p); p.Spec.NodeSelector = map[string]string{"no": "where"} })
	s.m.Upsert(elsewhere)
	s.until(elsewhere, "is refused", func(st v1.PodStatus) bool { return st.Reason == "NodeAffinity" })
	q := onePod("b", counting)
	s.m.Upsert(q)
	s.until(q, "runs", running)
	s.m.Upsert(deleted(elsewhere, 1))
	s.gone(elsewhere)
	if left := s.plugins.Pods(); !slices.Equal(left, []types.UID{q.UID}) {
		t.Errorf("devices have %v", left)
	}
	s.plugins.mu.Lock()
	defer s.plugins.mu.Unlock()
	if !s.plugins.ceded[p.UID] || s.plugins.ceded[q.UID] {
		t.Errorf("ceded: %v", s.plugins.ceded)
	}
}

// TestPluginHangsAtAdmission: who waits for a plugin keeps no other Pod from the node, and ends at once when it is deleted.
func TestPluginHangsAtAdmission(t *testing.T) {
	s := newStage(t)
	s.plugins = newPlugins()
	p, q := onePod("a", counting), onePod("b", counting)
	s.plugins.hang = p.UID
	s.start()
	s.m.Upsert(p)
	select {
	case <-s.plugins.asked:
	case <-time.After(time.Minute):
		t.Fatal("nobody asks for devices")
	}
	s.m.Upsert(q)
	s.until(q, "runs", running)
	s.m.Upsert(deleted(p, 30))
	s.gone(p)
	if left := s.plugins.Pods(); !slices.Equal(left, []types.UID{q.UID}) {
		t.Errorf("devices have %v", left)
	}
}

// TestDevicesOfPluginsOfPodsThatAreGone: what a Pod had that ended while no kubelet ran is given back.
func TestDevicesOfPluginsOfPodsThatAreGone(t *testing.T) {
	s := newStage(t)
	s.plugins = newPlugins()
	s.plugins.of["gone"] = true
	s.start()
	p := &v1.Pod{}
	p.Name, p.UID = "gone", "gone"
	s.gone(p)
	if left := s.plugins.Pods(); len(left) > 0 {
		t.Errorf("not given back: %v", left)
	}
}
