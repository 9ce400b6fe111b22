package scheduler

import (
	"errors"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/peapod/peapod/scheduler/framework"
)

// errPodGone says that a Pod whose volumes or devices were waited for need not be scheduled any more.
var errPodGone = errors.New("pod does not exist any more")

// bindWait is a Pod that has a node and waits until it has its volumes and devices there.
type bindWait struct {
	pod  *framework.Pod
	node *framework.Node
	// volumes and devices are what is to be written, nil for nothing; what has been is in place of it there. mu of the scheduler
	// guards the lists of volumes; those of devices are for the goroutine that binds alone.
	volumes *framework.VolumePlan
	devices *framework.DevicePlan
	// reserved are the claims for devices that the Pod is a user of.
	reserved []*resourcev1.ResourceClaim
	// news has a token when something that is waited for may have come; gone is closed when the Pod need not be
	// scheduled any more.
	news  chan struct{}
	gone  chan struct{}
	ended bool
}

// hold counts the plans, one of which may be nil, as written. The caller holds mu.
func (s *Scheduler) hold(pod *framework.Pod, node *framework.Node, volumes *framework.VolumePlan, devices *framework.DevicePlan) *bindWait {
	w := &bindWait{pod: pod, node: node, volumes: volumes, devices: devices, news: make(chan struct{}, 1), gone: make(chan struct{})}
	if volumes != nil {
		s.cluster.Known().Storage.Assume(pod.UID, volumes)
	}
	if devices != nil {
		s.cluster.Known().Devices.Assume(pod.UID, devices)
	}
	s.binding[pod.UID] = w
	return w
}

// letGo ends what hold began. Devices that were to be allocated and are not, because the binding failed, are there for others.
func (s *Scheduler) letGo(w *bindWait, failed bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.volumes != nil {
		s.cluster.Known().Storage.Release(w.pod.UID)
	}
	delete(s.binding, w.pod.UID)
	if failed && w.devices != nil {
		s.releaseDevices(w.pod.UID)
	}
	for _, other := range s.binding {
		other.look() // it may have counted on this one
	}
}

// end says that the Pod need not be scheduled any more. The caller holds mu; w may be nil.
func (w *bindWait) end() {
	if w != nil && !w.ended {
		w.ended = true
		close(w.gone)
	}
}

// look has the state of what is waited for looked at again.
func (w *bindWait) look() {
	select {
	case w.news <- struct{}{}:
	default:
	}
}

// concerns says whether e may be about what is waited for: any volume may be, as a claim can name one that has yet to be seen.
func (w *bindWait) concerns(e framework.Event) bool {
	if e.Devices != nil {
		return w.devices != nil && (e.Devices.OldClaim != nil || e.Devices.NewClaim != nil)
	}
	if w.volumes == nil {
		return false
	}
	for _, c := range []*corev1.PersistentVolumeClaim{e.OldClaim, e.NewClaim} {
		if c != nil && slices.Contains(w.volumes.Waited, framework.Key(c)) {
			return true
		}
	}
	return e.OldVolume != nil || e.NewVolume != nil
}
