package pod

import (
	"sort"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const statusUnknown = "ContainerStatusUnknown"

// containerStatuses fills the three lists.
func (in *Input) containerStatuses(d *Decision, s *v1.PodStatus, terminal bool) {
	hasInit := len(in.Pod.Spec.InitContainers) > 0
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		s.InitContainerStatuses = append(s.InitContainerStatuses, in.containerStatus(d, c, hasInit, true))
	}
	for i := range in.Pod.Spec.Containers {
		s.ContainerStatuses = append(s.ContainerStatuses, in.containerStatus(d, &in.Pod.Spec.Containers[i], hasInit, false))
	}
	sort.SliceStable(s.ContainerStatuses, func(i, j int) bool { return s.ContainerStatuses[i].Name < s.ContainerStatuses[j].Name })
	if terminal {
		in.close(s)
	}
	for i := range in.Pod.Spec.EphemeralContainers {
		c := v1.Container(in.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		s.EphemeralContainerStatuses = append(s.EphemeralContainerStatuses, in.containerStatus(d, &c, false, false))
	}
	sort.SliceStable(s.EphemeralContainerStatuses, func(i, j int) bool {
		return s.EphemeralContainerStatuses[i].Name < s.EphemeralContainerStatuses[j].Name
	})
}

// containerStatus tells one container's story from its newest two instances,
// what the API said before, and the last failure to start it.
func (in *Input) containerStatus(d *Decision, c *v1.Container, hasInit, init bool) v1.ContainerStatus {
	st := v1.ContainerStatus{Name: c.Name, Image: c.Image}
	reason := "ContainerCreating"
	if hasInit {
		reason = "PodInitializing"
	}
	st.State.Waiting = &v1.ContainerStateWaiting{Reason: reason}
	old := apiStatus(in.Pod, c.Name)
	newest := in.Runtime.Newest(c.Name)
	switch {
	case newest != nil:
		waiting := st.State
		in.fromRuntime(&st, newest, old)
		if in.earlier(newest) && in.State < Stopping { // its turn in the new round has not come
			st.State, st.LastTerminationState = waiting, st.State
		}
	case old != nil:
		in.fromAPI(&st, old, init)
	}
	in.between(c, newest, init, &st)
	in.failedStart(d, c, newest, init, &st)
	in.readiness(c, newest, init, &st)
	in.extras(c, old, &st)
	return st
}

// fromRuntime describes instances that the runtime has.
func (in *Input) fromRuntime(st *v1.ContainerStatus, newest *Container, old *v1.ContainerStatus) {
	st.RestartCount = newest.RestartCount
	st.State = in.state(newest)
	st.ContainerID = in.RuntimeName + "://" + newest.ID
	if newest.Image != "" {
		st.Image = newest.Image
	}
	st.ImageID = newest.ImageID
	st.User = newest.User
	st.StopSignal = newest.StopSignal
	if prev := in.Runtime.Previous(newest.Name); prev != nil {
		st.LastTerminationState = in.state(prev)
		st.LastTerminationState.Waiting, st.LastTerminationState.Running = nil, nil
	} else if old != nil && newest.RestartCount > 0 {
		st.LastTerminationState = old.LastTerminationState
		if old.State.Terminated != nil && old.ContainerID != st.ContainerID {
			st.LastTerminationState = old.State
		}
	}
}

// fromAPI describes a container of which the runtime has no instance (any
// more): what the API knew is kept.
func (in *Input) fromAPI(st *v1.ContainerStatus, old *v1.ContainerStatus, init bool) {
	st.RestartCount = old.RestartCount
	st.LastTerminationState = old.LastTerminationState
	switch {
	case old.State.Terminated != nil && (init || in.State >= Stopping || in.terminalInAPI()):
		started := old.Started
		*st = *old.DeepCopy()
		st.Started = started
	case old.State.Terminated != nil:
		st.LastTerminationState = old.State
		st.RestartCount++
	case old.State.Running != nil && st.LastTerminationState.Terminated == nil:
		st.LastTerminationState.Terminated = &v1.ContainerStateTerminated{
			Reason: statusUnknown, ExitCode: 137,
			Message: "The container could not be located when the pod was deleted.  The container used to be Running",
		}
		if in.Pod.DeletionTimestamp == nil {
			st.RestartCount++
		}
	}
}

func (in *Input) state(c *Container) v1.ContainerState {
	id := in.RuntimeName + "://" + c.ID
	switch c.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return v1.ContainerState{Running: &v1.ContainerStateRunning{StartedAt: metav1.NewTime(c.StartedAt)}}
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		t := &v1.ContainerStateTerminated{
			ExitCode: c.ExitCode, Reason: c.Reason, Message: c.Message, ContainerID: id,
			StartedAt: metav1.NewTime(c.StartedAt), FinishedAt: metav1.NewTime(c.FinishedAt),
		}
		if t.Reason == "" {
			t.Reason = "Completed"
			if c.ExitCode != 0 {
				t.Reason = "Error"
			}
		}
		return v1.ContainerState{Terminated: t}
	case runtimeapi.ContainerState_CONTAINER_CREATED:
		return v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}
	default:
		return v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
			Reason: statusUnknown, ExitCode: 137, ContainerID: id,
			Message: "The container could not be located when the pod was terminated",
		}}
	}
}

// between describes an instance that was ended to be followed by another one and
// ended as if it were done for good, which the API would take at its word.
func (in *Input) between(c *v1.Container, newest *Container, init bool, st *v1.ContainerStatus) {
	if in.State >= Stopping || !newest.Exited() || !in.Again[newest.ID] || wanted(in.Pod, c, init, newest) {
		return
	}
	st.LastTerminationState = st.State
	st.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: "ContainerCreating"}}
}

// failedStart shows why a container that should run does not.
func (in *Input) failedStart(d *Decision, c *v1.Container, newest *Container, init bool, st *v1.ContainerStatus) {
	if in.State >= Stopping || newest.Running() {
		return
	}
	f, ok := d.Failures[c.Name]
	if !ok {
		f, ok = in.Failures[c.Name]
	}
	if !ok || f.Reason == "" || (newest != nil && !in.earlier(newest) && !wanted(in.Pod, c, init, newest)) {
		return
	}
	if f.Reason == crashLoop && newest != nil && in.earlier(newest) && !f.Retry.After(in.Now) {
		return // the back-off was for the new round, which goes on
	}
	if st.State.Terminated != nil {
		st.LastTerminationState = st.State
	}
	st.State = v1.ContainerState{Waiting: &v1.ContainerStateWaiting{Reason: f.Reason, Message: f.Message}}
}

// close ends the stories of a Pod that is over. A container of which nobody saw
// the end gets an unknown one; those whose turn never came go on waiting: the
// regular ones if the init containers did not get done, and the init containers
// after the last that began.
func (in *Input) close(s *v1.PodStatus) {
	began := -1
	for i := range s.InitContainerStatuses {
		if st := &s.InitContainerStatuses[i]; st.State.Waiting == nil || st.LastTerminationState.Terminated != nil {
			began = i
		}
	}
	for i := 0; i <= began; i++ {
		lost(&s.InitContainerStatuses[i])
	}
	if n := len(s.InitContainerStatuses); n > 0 {
		last := s.InitContainerStatuses[n-1].State.Terminated
		sidecar := restartable(&in.Pod.Spec.InitContainers[n-1])
		if last == nil || (last.ExitCode != 0 && !sidecar) {
			return
		}
	}
	for i := range s.ContainerStatuses {
		lost(&s.ContainerStatuses[i])
	}
}

func lost(st *v1.ContainerStatus) {
	if st.State.Terminated != nil {
		return
	}
	no := false
	st.Ready, st.Started = false, &no
	st.State = v1.ContainerState{Terminated: &v1.ContainerStateTerminated{
		Reason: statusUnknown, ExitCode: 137,
		Message: "The container could not be located when the pod was terminated",
	}}
}

// readiness tells started and ready from state and probes.
func (in *Input) readiness(c *v1.Container, newest *Container, init bool, st *v1.ContainerStatus) {
	started := false
	if st.State.Running != nil {
		started = in.started(newest)
		if init && !restartable(c) {
			started = true
		}
	}
	st.Started = &started
	switch {
	case isEphemeral(in.Pod, c.Name):
		st.Ready, st.Started = false, nil
	case init && !restartable(c):
		st.Ready = st.State.Terminated != nil && st.State.Terminated.ExitCode == 0
	case !started || st.State.Running == nil:
		st.Ready = false
	default:
		st.Ready = c.ReadinessProbe == nil || in.Probes[newest.ID].Readiness == Success
	}
}

// extras are the parts of a status that do not depend on the state.
func (in *Input) extras(c *v1.Container, old, st *v1.ContainerStatus) {
	if told := in.Health[c.Name]; len(told) > 0 {
		st.AllocatedResourcesStatus = told
	} else if old != nil {
		st.AllocatedResourcesStatus = old.AllocatedResourcesStatus
	}
	if len(c.Resources.Requests) > 0 {
		st.AllocatedResources = c.Resources.Requests.DeepCopy()
	}
	if st.State.Running != nil || st.State.Terminated != nil {
		st.Resources = in.inForce(c, st.State.Running != nil)
	}
	st.VolumeMounts = nil
	for _, m := range c.VolumeMounts {
		vs := v1.VolumeMountStatus{Name: m.Name, MountPath: m.MountPath, ReadOnly: m.ReadOnly}
		if m.ReadOnly {
			mode := v1.RecursiveReadOnlyDisabled
			if m.RecursiveReadOnly != nil && *m.RecursiveReadOnly != v1.RecursiveReadOnlyDisabled {
				mode = v1.RecursiveReadOnlyEnabled
			}
			vs.RecursiveReadOnly = &mode
		}
		st.VolumeMounts = append(st.VolumeMounts, vs)
	}
}
