package device

import (
	"context"
	"fmt"
	"maps"
	"slices"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/pod"
)

// Given returns what a container is given for its devices, nil for nothing, once the plugins that want to know of a start have been told of
// it. It is called before each start. A container that should have devices and has none, since they were not known when its Pod was
// admitted, gets them now.
func (m *Manager) Given(ctx context.Context, p *v1.Pod, c *v1.Container) (*criconfig.Given, error) {
	m.load()
	list := m.asks(p, c)
	if len(list) == 0 {
		return nil, nil
	}
	for _, a := range list {
		if err := m.tellStart(ctx, p, c, a.name); err != nil {
			return nil, err
		}
	}
	m.mu.Lock()
	grants := maps.Clone(m.pods[p.UID][c.Name])
	m.mu.Unlock()
	out := &criconfig.Given{Annotations: map[string]string{}}
	merge := merger{ctx: ctx, p: p, c: c, seen: map[string]string{}}
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		if a := grants[name].answer; a != nil {
			merge.add(out, a)
		}
	}
	return out, nil
}

// tellStart has a plugin make the devices of a container ready for a start, if it wants that.
func (m *Manager) tellStart(ctx context.Context, p *v1.Pod, c *v1.Container, name string) error {
	m.mu.Lock()
	has := m.pods[p.UID][c.Name][name] != nil
	m.mu.Unlock()
	if !has {
		if err := m.give(ctx, p, c, nil); err != nil {
			return err
		}
		if err := m.save(); err != nil {
			return err
		}
	}
	m.mu.Lock()
	r, g, news := m.resources[name], m.pods[p.UID][c.Name][name], m.news
	var e *endpoint
	preStart := r != nil && r.preStart
	if r != nil {
		e = r.plugin
	}
	m.mu.Unlock()
	switch {
	case r == nil:
		return &pod.RetryError{Err: fmt.Errorf("endpoint not found in cache for a registered resource: %s", name), Ready: news}
	case !preStart:
		return nil
	case e == nil:
		return &pod.RetryError{Err: fmt.Errorf("device plugin PreStartContainer rpc failed with err: endpoint of %s has been stopped", name), Ready: news}
	case g == nil:
		return fmt.Errorf("no devices found allocated in local cache for pod %s, container %s, resource %s", p.UID, c.Name, name)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if _, err := e.client.PreStartContainer(ctx, &api.PreStartContainerRequest{DevicesIds: sortedIDs(g.devices)}, grpc.MaxCallRecvMsgSize(maxAnswer)); err != nil {
		return &pod.RetryError{Err: fmt.Errorf("device plugin PreStartContainer rpc failed with err: %w", e.failed("PreStartContainer", err)), Ready: news}
	}
	return nil
}

// merger puts together what several plugins answer for one container. Where two say something else of one thing, the first counts.
type merger struct {
	ctx  context.Context
	p    *v1.Pod
	c    *v1.Container
	seen map[string]string
}

// first says whether a thing was not there yet.
func (g *merger) first(kind, key, value string) bool {
	had, known := g.seen[kind+"\x00"+key]
	if known && had != value {
		klog.FromContext(g.ctx).Error(nil, "Device plugins differ in what a container is given", "pod", klog.KObj(g.p), "container", g.c.Name, "kind", kind, "name", key, "given", had, "ignored", value)
	}
	if !known {
		g.seen[kind+"\x00"+key] = value
	}
	return !known
}

func (g *merger) add(out *criconfig.Given, a *api.ContainerAllocateResponse) {
	for _, name := range slices.Sorted(maps.Keys(a.Envs)) {
		if g.first("variable", name, a.Envs[name]) {
			out.Envs = append(out.Envs, &runtimeapi.KeyValue{Key: name, Value: []byte(a.Envs[name])})
		}
	}
	for _, d := range a.Devices {
		if g.first("device", d.GetContainerPath(), d.GetHostPath()) {
			out.Devices = append(out.Devices, &runtimeapi.Device{ContainerPath: d.GetContainerPath(), HostPath: d.GetHostPath(), Permissions: d.GetPermissions()})
		}
	}
	for _, v := range a.Mounts {
		if g.first("mount", v.GetContainerPath(), v.GetHostPath()) {
			out.Mounts = append(out.Mounts, &runtimeapi.Mount{ContainerPath: v.GetContainerPath(), HostPath: v.GetHostPath(), Readonly: v.GetReadOnly()})
		}
	}
	for name, value := range a.Annotations {
		if g.first("annotation", name, value) {
			out.Annotations[name] = value
		}
	}
	for _, d := range a.CdiDevices {
		if g.first("CDI device", d.GetName(), "") {
			out.CDI = append(out.CDI, d.GetName())
		}
	}
}
