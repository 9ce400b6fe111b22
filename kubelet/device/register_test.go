package device

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/internal/testwait"
	"github.com/peapod/peapod/kubelet/plugin"
)

// What a plugin says of itself must be of a version that is known, an extended resource, and a socket in the directory.
func TestBadRegistrations(t *testing.T) {
	w := start(t)
	for want, r := range map[string]*api.RegisterRequest{
		`requested API version "v1alpha1" is not supported by kubelet. Supported version is ["v1beta1"]`: {Version: "v1alpha1", Endpoint: "a.sock", ResourceName: gpus},
		`the ResourceName "cpu" is invalid`:        {Version: api.Version, Endpoint: "a.sock", ResourceName: "cpu"},
		`endpoint "../a.sock" must be the name`:    {Version: api.Version, Endpoint: "../a.sock", ResourceName: gpus},
		`endpoint "/run/a.sock" must be the name`:  {Version: api.Version, Endpoint: "/run/a.sock", ResourceName: gpus},
		`endpoint ".." must be the name`:           {Version: api.Version, Endpoint: "..", ResourceName: gpus},
		`endpoint "" must be the name`:             {Version: api.Version, ResourceName: gpus},
		`endpoint "kubelet.sock" must be the name`: {Version: api.Version, Endpoint: "kubelet.sock", ResourceName: gpus},
		`received message larger than max (`:       {Version: api.Version, Endpoint: strings.Repeat("a", 66550), ResourceName: gpus},
	} {
		if err := w.register(r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	if all, _ := w.m.Capacity(); len(all) > 0 {
		t.Errorf("the node has %v", all)
	}
}

// The directory is for root's group at most, and what a start finds there of an earlier one is removed: plugins make their sockets anew.
func TestDirectory(t *testing.T) {
	w := start(t)
	dir := filepath.Dir(w.kubeletSocket())
	for path, want := range map[string]os.FileMode{dir: os.ModeDir | 0o750, w.kubeletSocket(): os.ModeSocket | 0o600} {
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("%s: %v, %v; want %v", path, info, err, want)
		}
	}
	l, err := net.Listen("unix", filepath.Join(dir, "old.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.stop()
	w.run(nil)
	if _, err := os.Stat(filepath.Join(dir, "old.sock")); !os.IsNotExist(err) {
		t.Errorf("an old socket is there: %v", err)
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
		t.Error(err)
	}
}

// The node counts all devices, and gives Pods the healthy ones; a plugin that ends leaves its resource with none for Pods, and after a while
// with none at all, in this process and the next.
func TestCapacity(t *testing.T) {
	w := start(t)
	w.stop()
	w.run(func(m *Manager) { m.grace = time.Millisecond })
	p := w.plugin(&plug{}, "a.sock", healthy("a", "b", "c")...)
	select {
	case <-w.counted:
	case <-time.After(time.Minute):
		t.Error("nobody is told of the devices")
	}
	list := healthy("a", "b")
	list[1].Health = api.Unhealthy
	p.list(list...)
	p.Stop()
	w.has(gpus, 0, 0)
	if all, free := w.m.Capacity(); len(all) != 1 || len(free) != 1 {
		t.Errorf("capacity %v, for pods %v; want one of none", all, free)
	}
	testwait.Until(t, func() string { return "the resource is forgotten" }, testwait.Polling(), func() bool { return !w.m.Has(gpus) })
	w.stop()
	w.run(nil)
	if all, _ := w.m.Capacity(); len(all) > 0 {
		t.Errorf("after a restart %v", all)
	}
}

// While a plugin that ended may come back its resource keeps its devices, for nobody; and the one that comes brings its own.
func TestPluginComesBack(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{}, "a.sock", healthy("a", "b")...)
	p.Stop()
	w.has(gpus, 2, 0)
	w.refused(asking("early", 1), "no healthy devices present; cannot allocate unhealthy devices "+gpus)
	b := w.plugin(&plug{}, "b.sock", healthy("a", "b", "c")...)
	w.admitted(asking("late", 3))
	// One that comes while another is there takes over, and the end of the first is nothing.
	c := w.plugin(&plug{}, "c.sock", healthy("a")...)
	b.Stop()
	c.list(healthy("a", "d")...)
	// A restart of the kubelet counts none before the plugin is back.
	w.stop()
	w.run(nil)
	w.has(gpus, 0, 0)
	if !w.m.Has(gpus) {
		t.Error("the resource is not known after a restart")
	}
}

// What a plugin lists is bounded.
func TestTooManyDevices(t *testing.T) {
	w := start(t)
	p := w.plugin(&plug{}, "a.sock")
	list := healthy("", strings.Repeat("x", maxID+1))
	for i := range maxDevices + 10 {
		list = append(list, &api.Device{ID: fmt.Sprint(i), Health: api.Healthy})
	}
	p.Lists <- list
	w.has(gpus, maxDevices, maxDevices)
}

// Plugins of the kubelet's directory for all plugins are as those that register themselves.
func TestRegistry(t *testing.T) {
	w := start(t)
	p := &plug{name: gpus}
	reg := plugin.Plugin{Name: gpus, Endpoint: w.serve(p, "r.sock"), Versions: []string{"v1alpha1", api.Version}}
	if err := w.m.Registry().Register(t.Context(), plugin.Plugin{Name: gpus, Endpoint: reg.Endpoint, Versions: []string{"v2"}}); err == nil || err.Error() != "manager version, v1beta1, is not among plugin supported versions [v2]" {
		t.Errorf("a version that is not known: %v", err)
	}
	if err := w.m.Registry().Register(t.Context(), reg); err != nil {
		t.Fatal(err)
	}
	p.list(healthy("a")...)
	other := reg
	other.Endpoint += "x"
	w.m.Registry().Deregister(t.Context(), other)
	w.admitted(asking("a", 1))
	w.m.Registry().Deregister(t.Context(), reg)
	w.has(gpus, 1, 0)
	if h := w.m.Health(asking("a", 1), &asking("a", 1).Spec.Containers[0]); len(h) != 1 || h[0].Resources[0].Health != v1.ResourceHealthStatusUnknown {
		t.Errorf("health %v", h)
	}
}
