package device

import (
	"context"
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/kubelet/pod"
)

// Containers of one Pod, and of several, have devices of their own, until the Pods are over. The plugin is asked once for each container.
func TestAllocate(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{}, "a.sock", healthy("a", "b", "c", "d")...)
	one, two := asking("one", 2, 1, 0), asking("two", 1)
	w.admitted(one)
	w.wantOf(one, "c0=a c0=b c1=c")
	if got, want := p.asked(), "allocate a,b; allocate c"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
	w.refused(asking("many", 2), "requested number of devices unavailable for "+gpus+". Requested: 2, Available: 1")
	w.admitted(two)
	w.refused(asking("three", 1), "Requested: 1, Available: 0")
	// Asked again, a Pod keeps what it has.
	p.asked()
	w.admitted(one)
	if got := p.asked(); got != "" {
		t.Errorf("asked %q", got)
	}
	if err := w.m.Release(one.UID); err != nil {
		t.Fatal(err)
	}
	w.admitted(asking("three", 3))
	// What an ended Pod has is free before it is released.
	r, err := w.m.Allocate(t.Context(), asking("four", 1), func() []types.UID { return []types.UID{two.UID} })
	if r != nil || err != nil {
		t.Errorf("refused %+v, %v", r, err)
	}
	w.wantOf(two, "")
	// A Pod that asks for none has nothing to do with plugins.
	other := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Limits: v1.ResourceList{"example.com/unknown": *count(1)}}}}}}
	w.admitted(other)
}

// Init containers have run when others start, but for sidecars.
func TestInitContainersLeaveTheirDevices(t *testing.T) {
	w := start(t)
	w.plugin(&plug{}, "a.sock", healthy("a", "b", "c", "d")...)
	p := asking("p", 2)
	always := v1.ContainerRestartPolicyAlways
	sidecar := container("sidecar", 1)
	sidecar.RestartPolicy = &always
	p.Spec.InitContainers = []v1.Container{container("first", 2), sidecar, container("last", 3)}
	w.admitted(p)
	// The sidecar keeps one of the first's; the last has the other one, and those of nobody.
	w.wantOf(p, "first=a first=b sidecar=a last=b last=c last=d c0=b c0=c")
}

// A plugin may say which devices fit together: those that are free count, and the rest is filled up.
func TestPreferredDevices(t *testing.T) {
	w := start(t)
	p := &plug{options: api.DevicePluginOptions{GetPreferredAllocationAvailable: true}, prefer: func([]string, []string, int) []string { return []string{"d", "nonsense", "d"} }}
	w.plugin(p, "a.sock", healthy("a", "b", "c", "d")...)
	one := asking("one", 2)
	w.admitted(one)
	w.wantOf(one, "c0=a c0=d")
	if got, want := p.asked(), "prefer 2 of a,b,c,d,must,; allocate a,d"; got != want {
		t.Errorf("asked %q, want %q", got, want)
	}
}

// Devices that are not healthy are for nobody, and those who have them are told so.
func TestUnhealthyDevice(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{}, "a.sock", healthy("a", "b")...)
	one := asking("one", 1)
	w.admitted(one)
	list := healthy("a", "b")
	list[0].Health = api.Unhealthy
	p.list(list...)
	if uid := <-w.woken; uid != one.UID {
		t.Errorf("%s is woken", uid)
	}
	h := w.m.Health(one, &one.Spec.Containers[0])
	if len(h) != 1 || h[0].Name != gpus || h[0].Resources[0] != (v1.ResourceHealth{ResourceID: "a", Health: v1.ResourceHealthStatusUnhealthy}) {
		t.Errorf("health %+v", h)
	}
	if err := w.m.Release(one.UID); err != nil {
		t.Fatal(err)
	}
	two := asking("two", 1)
	w.admitted(two)
	w.wantOf(two, "c0=b")
	var ids []string
	for _, d := range w.m.Allocatable() {
		ids = append(ids, d.DeviceIds[0])
		if d.Topology.Nodes[0].ID != 1 {
			t.Errorf("device at %v", d.Topology)
		}
	}
	if !slices.Equal(ids, []string{"b"}) {
		t.Errorf("monitors are told of %v", ids)
	}
}

// A plugin that fails, or says nothing, costs the Pod its start, and nobody a device.
func TestPluginThatFails(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{}, "a.sock", healthy("a")...)
	p.does(func(context.Context, []string) (*api.AllocateResponse, error) { return nil, errors.New("on fire") })
	w.refused(asking("one", 1), "device plugin of "+gpus+" at "+w.root+"/device-plugins/a.sock: Allocate: rpc error: code = Unknown desc = on fire")
	p.does(func(context.Context, []string) (*api.AllocateResponse, error) { return &api.AllocateResponse{}, nil })
	w.refused(asking("one", 1), "no containers return in allocation response")
	p.does(func(context.Context, []string) (*api.AllocateResponse, error) {
		return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{{Envs: map[string]string{"A": strings.Repeat("a", maxAnswer)}}}}, nil
	})
	w.refused(asking("one", 1), "received message larger than max")
	p.does(nil)
	w.admitted(asking("one", 1))
}

// A plugin that hangs holds up the Pod that asks for its devices, until that is given up, and nobody else.
func TestPluginThatHangs(t *testing.T) {
	w := start(t)
	hangs, other := make(chan struct{}, 1), asking("other", 1)
	p := w.plugin(&plug{}, "a.sock", healthy("a", "b")...)
	p.does(func(ctx context.Context, ids []string) (*api.AllocateResponse, error) {
		if ids[0] == "a" {
			hangs <- struct{}{}
			<-ctx.Done()
			return nil, ctx.Err()
		}
		return &api.AllocateResponse{ContainerResponses: []*api.ContainerAllocateResponse{{}}}, nil
	})
	ctx, cancel := context.WithCancel(t.Context())
	failed := make(chan error)
	go func() {
		r, err := w.m.Allocate(ctx, asking("one", 1), nobody)
		if r != nil {
			t.Errorf("refused: %v", r)
		}
		failed <- err
	}()
	<-hangs
	w.admitted(other)
	w.wantOf(other, "c0=b")
	cancel()
	if err := <-failed; !errors.Is(ctx.Err(), context.Canceled) || err == nil {
		t.Errorf("given up: %v", err)
	}
	w.wantOf(asking("one", 1), "")
	// Nor does it hold up the kubelet's end.
	go func() {
		_, err := w.m.Allocate(context.Background(), asking("two", 1), nobody)
		failed <- err
	}()
	<-hangs
	w.stop()
	<-failed
}

// Who has which device outlives the kubelet: nobody else gets it, even before the plugin is back.
func TestRestart(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{options: api.DevicePluginOptions{PreStartRequired: true}}, "a.sock", healthy("a", "b")...)
	one := asking("one", 1)
	w.admitted(one)
	w.stop()
	p.Stop()
	w.run(nil)
	w.wantOf(one, "c0=a")
	if got := w.m.Pods(); !slices.Equal(got, []types.UID{one.UID}) {
		t.Errorf("pods %v", got)
	}
	w.refused(asking("two", 1), "no healthy devices present; cannot allocate unhealthy devices "+gpus)
	// The container starts again when the plugin, which wants to know, is back.
	_, err := w.m.Given(t.Context(), one, &one.Spec.Containers[0])
	var again *pod.RetryError
	if !errors.As(err, &again) || !strings.Contains(err.Error(), "endpoint of "+gpus+" has been stopped") {
		t.Fatalf("given without the plugin: %v", err)
	}
	p = w.plugin(&plug{options: api.DevicePluginOptions{PreStartRequired: true}}, "b.sock", healthy("a", "b")...)
	<-again.Ready
	given, err := w.m.Given(t.Context(), one, &one.Spec.Containers[0])
	if err != nil || string(given.Envs[0].Value) != "a" {
		t.Errorf("given %+v, %v", given, err)
	}
	if got := p.asked(); got != "start a" {
		t.Errorf("asked %q", got)
	}
	two := asking("two", 1)
	w.admitted(two)
	w.wantOf(two, "c0=b")
	// What was released is so after the next start.
	if err := w.m.Release(one.UID); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.run(nil)
	w.wantOf(one, "")
	w.wantOf(two, "c0=b")
	// A file that was damaged is not believed, and the node goes on.
	w.stop()
	body, err := os.ReadFile(w.m.checkpoint())
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(w.m.checkpoint(), []byte(strings.Replace(string(body), "uid-two", "uid-six", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	w.run(nil)
	if got := w.m.Pods(); len(got) > 0 {
		t.Errorf("pods %v", got)
	}
}

// A container is given what the plugin answered, each time it starts.
func TestGiven(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{options: api.DevicePluginOptions{PreStartRequired: true}}, "a.sock", healthy("a", "b")...)
	one := asking("one", 2)
	c := &one.Spec.Containers[0]
	w.admitted(one)
	p.asked()
	for range 2 {
		g, err := w.m.Given(t.Context(), one, c)
		if err != nil {
			t.Fatal(err)
		}
		if len(g.Envs) != 1 || g.Envs[0].Key != "GPUS" || string(g.Envs[0].Value) != "a,b" || g.Annotations["example.com/gpus"] != "2" || !slices.Equal(g.CDI, []string{"example.com/gpu=a"}) {
			t.Errorf("given %+v", g)
		}
		if len(g.Devices) != 2 || g.Devices[1].ContainerPath != "/dev/b" || g.Devices[1].HostPath != "/dev/host-b" || g.Devices[1].Permissions != "rw" {
			t.Errorf("device nodes %v", g.Devices)
		}
		if len(g.Mounts) != 1 || g.Mounts[0].ContainerPath != "/lib" || g.Mounts[0].HostPath != "/host/lib" || !g.Mounts[0].Readonly {
			t.Errorf("mounts %v", g.Mounts)
		}
	}
	if got := p.asked(); got != "start a,b; start a,b" {
		t.Errorf("asked %q", got)
	}
	p.starts(errors.New("not now"))
	var again *pod.RetryError
	if _, err := w.m.Given(t.Context(), one, c); !errors.As(err, &again) || !strings.Contains(err.Error(), "device plugin PreStartContainer rpc failed with err: device plugin of "+gpus) {
		t.Errorf("the plugin cannot: %v", err)
	}
	// A Pod of before the plugin gets its devices when a container starts.
	p.starts(nil)
	if err := w.m.Release(one.UID); err != nil {
		t.Fatal(err)
	}
	p.does(func(context.Context, []string) (*api.AllocateResponse, error) { return nil, errors.New("on fire") })
	for range 2 {
		if _, err := w.m.Given(t.Context(), one, c); err == nil || !strings.Contains(err.Error(), "on fire") {
			t.Errorf("the plugin fails: %v", err)
		}
	}
	p.does(nil)
	if g, err := w.m.Given(t.Context(), one, c); err != nil || len(g.Devices) != 2 {
		t.Errorf("given %+v, %v", g, err)
	}
	if g, err := w.m.Given(t.Context(), &v1.Pod{}, &v1.Container{}); g != nil || err != nil {
		t.Errorf("given %+v, %v to a container that asks for nothing", g, err)
	}
}

// What a Pod has as devices of a claim is no plugin's business.
func TestClaimedResource(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{}, "a.sock", healthy("a")...)
	one := asking("one", 5)
	one.Status.ExtendedResourceClaimStatus = &v1.PodExtendedResourceClaimStatus{RequestMappings: []v1.ContainerExtendedResourceRequest{{ContainerName: "c0", ResourceName: gpus}}}
	w.admitted(one)
	if got := p.asked(); got != "" || w.of(one) != "" {
		t.Errorf("asked %q, has %s", got, w.of(one))
	}
}
