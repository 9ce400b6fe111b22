package dra

import (
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// use is what a container has of a claim: all of it, or the devices of one request.
type use struct {
	claim   types.NamespacedName
	request string
}

// uses are what a container has of its Pod's claims, in the order of the Pod's, then what its extended resources are made of.
func uses(p *v1.Pod, c *v1.Container) ([]use, error) {
	var list []use
	if len(c.Resources.Claims) > 0 {
		for i := range p.Spec.ResourceClaims {
			of := &p.Spec.ResourceClaims[i]
			for _, r := range c.Resources.Claims {
				if r.Name != of.Name {
					continue
				}
				name, _, err := resourceclaim.Name(p, of)
				if err != nil {
					return nil, err
				}
				if name != nil {
					list = append(list, use{types.NamespacedName{Namespace: p.Namespace, Name: *name}, r.Request})
				}
			}
		}
	}
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		for _, r := range s.RequestMappings {
			q, asks := c.Resources.Requests[v1.ResourceName(r.ResourceName)]
			if r.ContainerName == c.Name && asks && !q.IsZero() {
				list = append(list, use{types.NamespacedName{Namespace: p.Namespace, Name: s.ResourceClaimName}, r.RequestName})
			}
		}
	}
	return list, nil
}

// serves says whether a device is for a request of its claim. Drivers and containers may name one of several alternatives
// (firstAvailable) by its own name, or by the request's.
func (d *device) serves(request string) bool {
	return request == "" || len(d.Requests) == 0 || slices.ContainsFunc(d.Requests, func(r string) bool {
		return r == request || resourceclaim.BaseRequestRef(r) == request || r == resourceclaim.BaseRequestRef(request)
	})
}

// Devices returns the names in the Container Device Interface of what a container gets of its Pod's claims, each once.
func (m *Manager) Devices(p *v1.Pod, c *v1.Container) ([]string, error) {
	list, err := uses(p, c)
	if err != nil || len(list) == 0 {
		return nil, err
	}
	if err := m.load(); err != nil {
		return nil, err
	}
	var names []string
	for _, u := range list {
		r := m.recordOf(u.claim)
		if r == nil || !slices.Contains(r.Pods, p.UID) {
			return nil, fmt.Errorf("unable to get information for ResourceClaim %s: it is not prepared for the pod", u.claim.Name)
		}
		for _, driver := range slices.Sorted(maps.Keys(r.Drivers)) {
			for _, d := range r.Drivers[driver] {
				if !d.serves(u.request) {
					continue
				}
				for _, name := range d.CDI {
					if !slices.Contains(names, name) {
						names = append(names, name)
					}
				}
			}
		}
	}
	return names, nil
}

func (m *Manager) recordOf(name types.NamespacedName) *record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if c := m.claims[name]; c != nil {
		return c.record
	}
	return nil
}
