package device

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// Health returns how the devices do that a container of the Pod has, by resource; nil for none. It costs nothing for a Pod without. Of a
// device that no plugin tells of now, it is not known.
func (m *Manager) Health(p *v1.Pod, c *v1.Container) (list []v1.ResourceStatus) {
	m.load()
	m.mu.Lock()
	defer m.mu.Unlock()
	grants := m.pods[p.UID][c.Name]
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		s := v1.ResourceStatus{Name: v1.ResourceName(name)}
		for _, id := range sortedIDs(grants[name].devices) {
			s.Resources = append(s.Resources, v1.ResourceHealth{ResourceID: v1.ResourceID(id), Health: m.healthOf(name, id)})
		}
		list = append(list, s)
	}
	return list
}

// healthOf is the health of a device. The caller holds mu.
func (m *Manager) healthOf(name, id string) v1.ResourceHealthStatus {
	r := m.resources[name]
	if r == nil || !r.told {
		return v1.ResourceHealthStatusUnknown
	}
	d, known := r.devices[id]
	switch {
	case !known:
		return v1.ResourceHealthStatusUnknown
	case d.healthy:
		return v1.ResourceHealthStatusHealthy
	}
	return v1.ResourceHealthStatusUnhealthy
}

// Devices tells which devices a container has, for those who watch devices: each by itself, and once for each NUMA node that it is at.
func (m *Manager) Devices(p *v1.Pod, c *v1.Container) (list []*podresourcesapi.ContainerDevices) {
	m.load()
	m.mu.Lock()
	defer m.mu.Unlock()
	grants := m.pods[p.UID][c.Name]
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		for _, id := range sortedIDs(grants[name].devices) {
			list = append(list, monitored(name, id, grants[name].devices[id])...)
		}
	}
	return list
}

// Allocatable tells of all devices that Pods have or may have, as Devices does.
func (m *Manager) Allocatable() (list []*podresourcesapi.ContainerDevices) {
	m.load()
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, name := range slices.Sorted(maps.Keys(m.resources)) {
		devices := m.resources[name].devices
		for _, id := range slices.Sorted(maps.Keys(devices)) {
			if devices[id].healthy {
				list = append(list, monitored(name, id, devices[id].nodes)...)
			}
		}
	}
	return list
}

func monitored(name, id string, nodes []int64) (list []*podresourcesapi.ContainerDevices) {
	if len(nodes) == 0 {
		return []*podresourcesapi.ContainerDevices{{ResourceName: name, DeviceIds: []string{id}}}
	}
	for _, n := range nodes {
		list = append(list, &podresourcesapi.ContainerDevices{ResourceName: name, DeviceIds: []string{id},
			Topology: &podresourcesapi.TopologyInfo{Nodes: []*podresourcesapi.NUMANode{{ID: n}}}})
	}
	return list
}
