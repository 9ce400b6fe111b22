package device

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/kubelet/pod"
)

// asked is how many devices of a resource a container asks for.
type asked struct {
	name string
	n    int
}

// asks are the resources of device plugins that a container names, by name. What its Pod has as devices of a claim is not for them.
func (m *Manager) asks(p *v1.Pod, c *v1.Container) (list []asked) {
	if len(c.Resources.Limits) == 0 {
		return nil
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
		q := c.Resources.Limits[name]
		if q.Value() > 0 && m.has(string(name)) && !claimed(p, c, name) {
			list = append(list, asked{string(name), int(q.Value())})
		}
	}
	return list
}

// claimed says whether a container has a resource by a claim that was made for it.
func claimed(p *v1.Pod, c *v1.Container, name v1.ResourceName) bool {
	s := p.Status.ExtendedResourceClaimStatus
	return s != nil && slices.ContainsFunc(s.RequestMappings, func(r v1.ContainerExtendedResourceRequest) bool {
		return r.ContainerName == c.Name && r.ResourceName == string(name)
	})
}

// spare are devices of a Pod that its next container may have: IDs by resource.
type spare map[string]map[string]bool

// Allocate gives the containers of a Pod their devices, and says why if it cannot: then the Pod has none. Init containers have run when the
// next container starts, so their devices are used again; those of sidecars are not. ceded are Pods that nothing runs of any more, or
// whose objects are gone: what they have is free. Who has devices already, of an earlier call, keeps them.
//
// An error is about the kubelet, not the Pod; it may be tried again.
func (m *Manager) Allocate(ctx context.Context, p *v1.Pod, ceded func() []types.UID) (*pod.Refusal, error) {
	m.load()
	if !m.concerns(p) {
		return nil, nil
	}
	free := ceded()
	m.mu.Lock()
	for _, uid := range free {
		if uid != p.UID {
			m.drop(uid)
		}
	}
	m.mu.Unlock()
	err := m.allocate(ctx, p)
	if err == nil {
		if err = m.save(); err == nil {
			return nil, nil
		}
		return nil, errors.Join(err, m.Release(p.UID))
	}
	if released := m.Release(p.UID); released != nil || ctx.Err() != nil {
		return nil, errors.Join(err, released)
	}
	return &pod.Refusal{Reason: "UnexpectedAdmissionError", Message: fmt.Sprintf("Allocate failed due to %v, which is unexpected", err)}, nil
}

// concerns says whether a container of the Pod asks for devices of plugins.
func (m *Manager) concerns(p *v1.Pod) bool {
	asks := func(c v1.Container) bool { return len(m.asks(p, &c)) > 0 }
	return slices.ContainsFunc(p.Spec.InitContainers, asks) || slices.ContainsFunc(p.Spec.Containers, asks)
}

func (m *Manager) allocate(ctx context.Context, p *v1.Pod) error {
	again := spare{}
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if err := m.give(ctx, p, c, again); err != nil {
			return err
		}
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		m.reuse(p, c, again, !sidecar)
	}
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		if err := m.give(ctx, p, c, again); err != nil {
			return err
		}
		m.reuse(p, c, again, false)
	}
	return nil
}

// reuse says whether others of the Pod may have the devices of a container.
func (m *Manager) reuse(p *v1.Pod, c *v1.Container, again spare, may bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for name, g := range m.pods[p.UID][c.Name] {
		if again[name] == nil {
			again[name] = map[string]bool{}
		}
		for id := range g.devices {
			if may {
				again[name][id] = true
			} else {
				delete(again[name], id)
			}
		}
	}
}

// give gives a container the devices that it asks for, and has not. Each plugin is asked once for all of its own.
func (m *Manager) give(ctx context.Context, p *v1.Pod, c *v1.Container, again spare) error {
	for _, a := range m.asks(p, c) {
		e, g, err := m.choose(ctx, p.UID, c.Name, a, again[a.name])
		if err != nil {
			return err
		}
		if g == nil {
			continue
		}
		answer, err := e.allocate(ctx, sortedIDs(g.devices))
		m.mu.Lock()
		if err == nil && m.pods[p.UID][c.Name][a.name] != g {
			err = fmt.Errorf("device plugin of %s at %s: the Pod was over before it answered", e.resource, e.socket)
		}
		if err == nil {
			m.put(p.UID, c.Name, a.name, &grant{devices: g.devices, answer: answer})
		} else if m.pods[p.UID][c.Name][a.name] == g {
			delete(m.pods[p.UID][c.Name], a.name)
		}
		m.mu.Unlock()
		if err != nil {
			return err
		}
	}
	return nil
}

// choose reserves the devices that a container is to have, and returns whom to ask for them; no grant if the container has them already.
func (m *Manager) choose(ctx context.Context, uid types.UID, container string, a asked, again map[string]bool) (*endpoint, *grant, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	has, err := m.check(uid, container, a)
	if has || err != nil {
		return nil, nil, err
	}
	chosen := first(slices.Sorted(maps.Keys(again)), a.n)
	if len(chosen) < a.n {
		free, err := m.free(a.name, a.n-len(chosen))
		if err != nil {
			return nil, nil, err
		}
		e := m.resources[a.name].plugin
		if e.options.GetGetPreferredAllocationAvailable() {
			m.mu.Unlock()
			preferred, err := e.prefer(ctx, slices.Concat(free, chosen), chosen, a.n)
			m.mu.Lock()
			if err != nil {
				return nil, nil, err
			}
			// Others may have got some meanwhile, and the plugin may have gone.
			if free, err = m.free(a.name, a.n-len(chosen)); err != nil {
				return nil, nil, err
			}
			free = preferring(preferred, free)
		}
		chosen = slices.Concat(chosen, free[:a.n-len(chosen)])
	}
	r := m.resources[a.name]
	if r == nil || r.plugin == nil {
		return nil, nil, fmt.Errorf("endpoint of %s has been stopped", a.name)
	}
	g := &grant{devices: map[string][]int64{}}
	for _, id := range chosen {
		g.devices[id] = r.devices[id].nodes
	}
	m.put(uid, container, a.name, g)
	return r.plugin, g, nil
}

// check says whether a container has what it asks for, and whether it could. The caller holds mu.
func (m *Manager) check(uid types.UID, container string, a asked) (has bool, err error) {
	g, r := m.pods[uid][container][a.name], m.resources[a.name]
	switch {
	case g != nil && len(g.devices) != a.n:
		return false, fmt.Errorf("pod %q container %q changed request for resource %q from %d to %d", uid, container, a.name, len(g.devices), a.n)
	case r == nil:
		return false, fmt.Errorf("cannot allocate unregistered device %s", a.name)
	case r.healthy() == 0:
		return false, fmt.Errorf("no healthy devices present; cannot allocate unhealthy devices %s", a.name)
	case g == nil:
		return false, nil
	}
	for id := range g.devices {
		if !r.devices[id].healthy {
			return false, fmt.Errorf("previously allocated devices are no longer healthy; cannot allocate unhealthy devices %s", a.name)
		}
	}
	return true, nil
}

// free are the devices that nobody has, sorted; so many are needed. The caller holds mu.
func (m *Manager) free(name string, needed int) ([]string, error) {
	taken := map[string]bool{}
	for _, all := range m.pods {
		for _, grants := range all {
			if g := grants[name]; g != nil {
				for id := range g.devices {
					taken[id] = true
				}
			}
		}
	}
	var free []string
	if r := m.resources[name]; r != nil && r.plugin != nil {
		for id, d := range r.devices {
			if d.healthy && !taken[id] {
				free = append(free, id)
			}
		}
	}
	if len(free) < needed {
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, needed, len(free))
	}
	slices.Sort(free)
	return free, nil
}

// preferring is free with those that are preferred first, in their order.
func preferring(preferred, free []string) []string {
	left := map[string]bool{}
	for _, id := range free {
		left[id] = true
	}
	var out []string
	for _, id := range slices.Concat(preferred, free) {
		if left[id] {
			out = append(out, id)
			delete(left, id)
		}
	}
	return out
}

func first(ids []string, n int) []string { return ids[:min(n, len(ids))] }

func sortedIDs(devices map[string][]int64) []string { return slices.Sorted(maps.Keys(devices)) }

// prefer asks which of the available devices fit best together, and to those that must be among them.
func (e *endpoint) prefer(ctx context.Context, available, must []string, n int) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
	defer cancel()
	r, err := e.client.GetPreferredAllocation(ctx, &api.PreferredAllocationRequest{ContainerRequests: []*api.ContainerPreferredAllocationRequest{
		{AvailableDeviceIDs: available, MustIncludeDeviceIDs: must, AllocationSize: int32(n)},
	}}, grpc.MaxCallRecvMsgSize(maxAnswer))
	if err != nil {
		return nil, fmt.Errorf("device plugin GetPreferredAllocation rpc failed with err: %w", e.failed("GetPreferredAllocation", err))
	}
	if len(r.ContainerResponses) == 0 {
		return nil, nil
	}
	return r.ContainerResponses[0].DeviceIDs, nil
}

// allocate asks for devices for one container.
func (e *endpoint) allocate(ctx context.Context, ids []string) (*api.ContainerAllocateResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, allocateTimeout)
	defer cancel()
	begin := time.Now()
	r, err := e.client.Allocate(ctx, &api.AllocateRequest{ContainerRequests: []*api.ContainerAllocateRequest{{DevicesIds: ids}}}, grpc.MaxCallRecvMsgSize(maxAnswer))
	e.m.cfg.Metrics.DevicesAllocated(e.resource, time.Since(begin))
	if err != nil {
		return nil, e.failed("Allocate", err)
	}
	if len(r.ContainerResponses) == 0 || r.ContainerResponses[0] == nil {
		return nil, e.failed("Allocate", errors.New("no containers return in allocation response"))
	}
	return r.ContainerResponses[0], nil
}
