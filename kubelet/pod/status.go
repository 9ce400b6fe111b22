package pod

import (
	"sort"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/kubectl/pkg/util/qos"
	netutils "k8s.io/utils/net"
)

// status computes the API status. Fields that others own (nominatedNodeName,
// resource claims, foreign conditions) are carried over as they are.
func (in *Input) status(d *Decision) v1.PodStatus {
	old := &in.Pod.Status
	s := v1.PodStatus{
		ObservedGeneration:          in.observed(),
		QOSClass:                    old.QOSClass,
		NominatedNodeName:           old.NominatedNodeName,
		ResourceClaimStatuses:       old.ResourceClaimStatuses,
		ExtendedResourceClaimStatus: old.ExtendedResourceClaimStatus,
		StartTime:                   old.StartTime,
		Message:                     "",
	}
	if s.QOSClass == "" {
		s.QOSClass = qos.GetPodQOS(in.Pod)
	}
	if s.StartTime == nil && !in.StartTime.IsZero() {
		t := metav1.NewTime(in.StartTime)
		s.StartTime = &t
	}
	ended := in.Ended
	if d.Ended != nil {
		ended = d.Ended
	}
	terminal := in.State >= Releasing
	if in.terminalInAPI() { // never back; what is left to say was said
		terminal = true
		s.Reason, s.Message = old.Reason, old.Message
	}
	if ended != nil && ended.Failed && terminal {
		s.Reason, s.Message = ended.Reason, ended.Message
	}
	in.podResources(&s)
	in.addresses(&s)
	if refused := ended != nil && ended.Failed && in.neverHere(); !refused {
		in.containerStatuses(d, &s, terminal)
		shorten(&s)
	}
	s.Phase = in.phase(&s, ended, terminal)
	in.conditions(&s, ended)
	return s
}

// observed is the generation that the status is about. One that asks for other resources counts when it was looked at:
// with it, clients expect to see what has come of a resize (KEP-1287, KEP-5067).
func (in *Input) observed() int64 {
	if in.Unjudged {
		return in.Pod.Status.ObservedGeneration
	}
	return in.Pod.Generation
}

// neverHere says whether the Pod was refused before anything was made for it.
func (in *Input) neverHere() bool {
	return in.Admission != nil && len(in.Runtime.Sandboxes) == 0 && len(in.Runtime.Containers) == 0
}

func (in *Input) addresses(s *v1.PodStatus) {
	old := &in.Pod.Status
	s.HostIP, s.HostIPs, s.PodIP, s.PodIPs = old.HostIP, old.HostIPs, old.PodIP, old.PodIPs
	if len(in.HostIPs) > 0 && in.State != New {
		s.HostIP, s.HostIPs = in.HostIPs[0], nil
		for _, ip := range in.HostIPs {
			s.HostIPs = append(s.HostIPs, v1.HostIP{IP: ip})
		}
	}
	sb := in.Runtime.Sandbox()
	if sb == nil || !sb.Ready {
		return
	}
	ips := sb.IPs
	if in.Pod.Spec.HostNetwork {
		ips = in.HostIPs
	}
	if len(ips) == 0 {
		return
	}
	// The address family of the node's first address leads.
	if len(ips) > 1 && len(in.HostIPs) > 0 && netutils.IsIPv6String(ips[0]) != netutils.IsIPv6String(in.HostIPs[0]) {
		ips = append([]string(nil), ips...)
		sort.SliceStable(ips, func(i, j int) bool {
			lead := netutils.IsIPv6String(in.HostIPs[0])
			return netutils.IsIPv6String(ips[i]) == lead && netutils.IsIPv6String(ips[j]) != lead
		})
	}
	s.PodIP, s.PodIPs = ips[0], nil
	for _, ip := range ips {
		s.PodIPs = append(s.PodIPs, v1.PodIP{IP: ip})
	}
}

// tally counts container states the way the phase is told from them.
type tally struct {
	pendingInit, failedInit, failedInitForGood        int
	running, waiting, stopped, succeeded, unknownKind int
}

func (in *Input) phase(s *v1.PodStatus, ended *Termination, terminal bool) v1.PodPhase {
	if in.terminalInAPI() {
		return in.Pod.Status.Phase
	}
	if terminal && ended != nil && ended.Failed {
		return v1.PodFailed
	}
	t := in.count(s)
	switch {
	case t.failedInitForGood > 0 && (terminal || in.State == Stopping):
		if terminal {
			return v1.PodFailed
		}
		return v1.PodPending
	case terminal && t.pendingInit+t.failedInit+t.waiting+t.running+t.unknownKind == 0 && t.stopped > 0 && t.stopped == t.succeeded:
		return v1.PodSucceeded
	case terminal:
		return v1.PodFailed
	case t.pendingInit+t.failedInit > 0, t.waiting > 0:
		return v1.PodPending
	case t.running > 0 && t.unknownKind == 0, t.running == 0 && t.stopped > 0 && t.unknownKind == 0:
		return v1.PodRunning
	default:
		return v1.PodPending
	}
}

func (in *Input) count(s *v1.PodStatus) tally {
	t := tally{}
	regularBegan := false
	for i := range s.ContainerStatuses {
		st := &s.ContainerStatuses[i]
		last := st.LastTerminationState.Terminated
		switch {
		case st.State.Running != nil:
			t.running++
		case st.State.Terminated != nil:
			t.stopped++
			if st.State.Terminated.ExitCode == 0 {
				t.succeeded++
			}
		case st.State.Waiting != nil && last != nil:
			t.stopped++
		case st.State.Waiting != nil:
			t.waiting++
		default:
			t.unknownKind++
		}
		newest := in.Runtime.Newest(st.Name)
		before := last != nil && (newest == nil || !in.earlier(newest)) // in this round
		regularBegan = regularBegan || st.State.Waiting == nil || before
	}
	for i := range in.Pod.Spec.InitContainers {
		in.countInit(&t, s, &in.Pod.Spec.InitContainers[i], regularBegan)
	}
	return t
}

func (in *Input) countInit(t *tally, s *v1.PodStatus, c *v1.Container, regularBegan bool) {
	st := findStatus(s.InitContainerStatuses, c.Name)
	if restartable(c) {
		if !regularBegan && (st == nil || st.Started == nil || !*st.Started) && in.State < Stopping {
			t.pendingInit++
		}
		return
	}
	code := int32(-1)
	switch {
	case st == nil || st.State.Running != nil:
	case st.State.Terminated != nil:
		code = st.State.Terminated.ExitCode
	case st.State.Waiting != nil && st.LastTerminationState.Terminated != nil && st.LastTerminationState.Terminated.ExitCode != 0:
		code = st.LastTerminationState.Terminated.ExitCode
	}
	switch {
	case code == 0:
	case code < 0:
		t.pendingInit++
	default:
		t.failedInit++
		if !restarts(in.Pod, c, true, code) {
			t.failedInitForGood++
		}
	}
}

func findStatus(list []v1.ContainerStatus, name string) *v1.ContainerStatus {
	for i := range list {
		if list[i].Name == name {
			return &list[i]
		}
	}
	return nil
}

// stamp is the time of a change of a condition: seconds, as on the wire.
func stamp(t time.Time) metav1.Time { return metav1.NewTime(t).Rfc3339Copy() }
