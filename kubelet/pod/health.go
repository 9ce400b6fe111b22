package pod

import v1 "k8s.io/api/core/v1"

// health is that of the devices that the Pod's containers have, by name of those that have some; nil for none.
func (m *Manager) health(p *v1.Pod) map[string][]v1.ResourceStatus {
	var all map[string][]v1.ResourceStatus
	for i := range p.Spec.Containers {
		c := &p.Spec.Containers[i]
		var told []v1.ResourceStatus
		if len(c.Resources.Claims) > 0 {
			told = m.cfg.Devices.Health(p, c)
		}
		if m.cfg.Plugins != nil && len(c.Resources.Limits) > 0 {
			told = append(told, m.cfg.Plugins.Health(p, c)...)
		}
		if len(told) > 0 {
			if all == nil {
				all = map[string][]v1.ResourceStatus{}
			}
			all[c.Name] = told
		}
	}
	return all
}
