package dra

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/utils/ptr"
)

// Resources tells what a container has of its Pod's claims, for those who watch devices: each claim once, with the devices of the
// requests that the container names. Claims that are not prepared for the Pod are left out.
func (m *Manager) Resources(p *v1.Pod, c *v1.Container) ([]*podresourcesapi.DynamicResource, error) {
	list, err := uses(p, c)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	var out []*podresourcesapi.DynamicResource
	told := map[types.NamespacedName]bool{}
	for _, u := range list {
		r := m.recordOf(u.claim)
		if told[u.claim] || r == nil || !slices.Contains(r.Pods, p.UID) {
			continue
		}
		told[u.claim] = true
		one := &podresourcesapi.DynamicResource{ClaimName: r.Claim, ClaimNamespace: r.Namespace}
		for _, driver := range slices.Sorted(maps.Keys(r.Drivers)) {
			for _, d := range r.Drivers[driver] {
				serves := func(u2 use) bool { return u2.claim == u.claim && d.serves(u2.request) }
				if slices.ContainsFunc(list, serves) {
					one.ClaimResources = append(one.ClaimResources, d.resource(driver))
				}
			}
		}
		out = append(out, one)
	}
	return out, nil
}

// resource is a device as watchers of devices know it.
func (d *device) resource(driver string) *podresourcesapi.ClaimResource {
	out := &podresourcesapi.ClaimResource{DriverName: driver, PoolName: d.Pool, DeviceName: d.Name}
	if d.Share != "" {
		out.ShareId = ptr.To(d.Share)
	}
	for _, name := range d.CDI {
		out.CdiDevices = append(out.CdiDevices, &podresourcesapi.CDIDevice{Name: name})
	}
	return out
}
