package dra

import (
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"github.com/peapod/peapod/kubelet/plugin"
)

// schedule has the ResourceSlices of a driver deleted in a while if nobody can speak with it, and no more if somebody can. The caller
// holds mu.
func (m *Manager) schedule(name string) {
	if m.ctx.Err() != nil {
		return
	}
	timer := m.away[name]
	switch present := m.present(name); {
	case present && timer != nil:
		timer.Stop()
		delete(m.away, name)
	case !present && timer == nil:
		var own *time.Timer
		own = time.AfterFunc(m.wipeDelay, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			if m.away[name] == own {
				m.spawn(func() { m.wipe(name) })
			}
		})
		m.away[name] = own
	}
}

// wipe deletes the ResourceSlices that a driver has of this node, or all drivers if name is empty, again and again until that succeeds,
// or the driver is back.
func (m *Manager) wipe(name string) {
	which := fields.Set{resourcev1.ResourceSliceSelectorNodeName: m.cfg.NodeName}
	if name != "" {
		which[resourcev1.ResourceSliceSelectorDriver] = name
	}
	plugin.Again(m.ctx, "ResourceSlices are not deleted, will retry", func() (<-chan struct{}, error) {
		m.mu.Lock()
		back, news := name != "" && m.present(name), m.news
		m.mu.Unlock()
		if back {
			return nil, nil
		}
		return news, m.cfg.Client.ResourceV1().ResourceSlices().DeleteCollection(m.ctx, metav1.DeleteOptions{}, metav1.ListOptions{FieldSelector: which.String()})
	}, "which", which)
}
