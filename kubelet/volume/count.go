package volume

import (
	"errors"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/pod"
)

// counted counts the volumes of a Pod that starts. One that waits for something is not counted yet. The caller holds pv.mu.
func (m *Manager) counted(pv *podVolumes, v *v1.Volume, began time.Time, err error) {
	var waits *pod.RetryError
	if pv.ready || !pv.preparing || (errors.As(err, &waits) && waits.Quiet) {
		return
	}
	m.cfg.Metrics.StorageDone(pluginOf(v), "volume_mount", began, err)
}

// pluginOf is what Kubernetes calls what makes a volume. Claims are taken for those of this node's own volumes.
func pluginOf(v *v1.Volume) string {
	name := plugin(v)
	switch {
	case v.HostPath != nil:
		name = "host-path"
	case v.Image != nil:
		name = "image"
	case v.CSI != nil:
		name = "csi:" + v.CSI.Driver
	}
	return "kubernetes.io/" + name
}

// Count counts volumes by what makes them: all that these Pods have which are not over, and those that are set up. It waits for no mount:
// what is being set up at the moment is not yet.
func (m *Manager) Count(pods []*v1.Pod) (desired, actual map[string]int) {
	desired, actual = map[string]int{}, map[string]int{}
	for _, p := range pods {
		over := p.Status.Phase == v1.PodSucceeded || p.Status.Phase == v1.PodFailed
		ready := m.ready(p.UID)
		for i := range p.Spec.Volumes {
			name := pluginOf(&p.Spec.Volumes[i])
			if !over {
				desired[name]++
			}
			if ready {
				actual[name]++
			}
		}
	}
	return desired, actual
}

// ready says whether all volumes of a Pod are set up.
func (m *Manager) ready(uid types.UID) bool {
	m.mu.Lock()
	pv := m.pods[uid]
	m.mu.Unlock()
	if pv == nil || !pv.mu.TryLock() {
		return false
	}
	defer pv.mu.Unlock()
	return pv.ready
}
