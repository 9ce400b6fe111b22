package pod

import (
	"fmt"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// decideAlive keeps a Pod that is neither ending nor ended: volumes and
// sandbox first, then ephemeral, init and regular containers.
func (in *Input) decideAlive(d *Decision) {
	if in.mustEnd(d) {
		return
	}
	if !in.sandboxReady(d) {
		return
	}
	if !in.VolumesReady && !in.blocked(d, "volumes") {
		d.act(Action{Kind: PrepareVolumes, Key: "volumes"})
	}
	if in.restartAll(d) || !in.VolumesReady {
		return
	}
	in.collectDead(d)
	if in.resize(d) {
		return
	}
	in.startEphemeral(d)
	began := in.anyRegularActive()
	if began && in.State == Starting {
		d.Event = Begin
		return
	}
	done, failed := in.initContainers(d, began)
	if failed {
		d.Event, d.Ended = End, &Termination{By: in.Now.Add(in.grace())}
		return
	}
	if !done {
		return
	}
	if in.regularContainers(d) {
		d.Event, d.Ended = End, &Termination{By: in.Now.Add(in.grace())}
	}
}

// sandboxReady brings the sandbox up; while it is not, volumes are prepared
// beside it, because neither needs the other.
func (in *Input) sandboxReady(d *Decision) bool {
	sb := in.Runtime.Sandbox()
	if sb != nil && sb.Ready {
		return true
	}
	if in.State == Running {
		d.Event = Rebuild
		return false
	}
	attempt := uint32(0)
	if sb != nil {
		if !in.anyToRun() {
			d.Event, d.Ended = End, &Termination{By: in.Now.Add(in.grace())}
			return false
		}
		attempt = sb.Attempt + 1
		if !in.Done["stopped/"+sb.ID] {
			if !in.blocked(d, "sandbox") {
				d.note(v1.EventTypeNormal, "SandboxChanged", "", "Pod sandbox changed, it will be killed and re-created.")
				d.act(Action{Kind: StopSandbox, Key: "sandbox", ID: sb.ID})
			}
			return false
		}
	}
	if !in.blocked(d, "sandbox") {
		d.act(Action{Kind: CreateSandbox, Key: "sandbox", Attempt: attempt})
	}
	if !in.VolumesReady && !in.blocked(d, "volumes") {
		d.act(Action{Kind: PrepareVolumes, Key: "volumes"})
	}
	return false
}

// anyToRun says whether a new sandbox would have anything to run.
func (in *Input) anyToRun() bool {
	if len(in.round.sources) > 0 {
		return true
	}
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		last := in.newest(c.Name)
		if last != nil && last.Exited() && last.ExitCode != 0 && !wanted(in.Pod, c, true, last) {
			return false
		}
	}
	for i := range in.Pod.Spec.Containers {
		c := &in.Pod.Spec.Containers[i]
		last := in.newest(c.Name)
		if last == nil && in.Pod.Spec.RestartPolicy == v1.RestartPolicyNever && in.anyRegularEver() {
			continue
		}
		if last.Running() { // its sandbox is dead, so is it
			last = &Container{State: runtimeapi.ContainerState_CONTAINER_EXITED, ExitCode: 137}
		}
		if wanted(in.Pod, c, false, last) {
			return true
		}
	}
	return false
}

func (in *Input) anyRegularEver() bool {
	for i := range in.Pod.Spec.Containers {
		if in.newest(in.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

func (in *Input) anyRegularActive() bool {
	for i := range in.Pod.Spec.Containers {
		if in.active(in.Pod.Spec.Containers[i].Name) != nil {
			return true
		}
	}
	return false
}

// startEphemeral starts the ephemeral containers that never ran; they are
// never restarted.
func (in *Input) startEphemeral(d *Decision) {
	for i := range in.Pod.Spec.EphemeralContainers {
		c := v1.Container(in.Pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
		if last := in.Runtime.Newest(c.Name); last == nil || last.unstarted() {
			in.start(d, &c, last)
		}
	}
}

// initContainers walks the init containers in order. done: the regular ones
// may run; failed: the Pod cannot go on.
func (in *Input) initContainers(d *Decision, began bool) (done, failed bool) {
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		last := in.active(c.Name)
		if restartable(c) {
			in.keep(d, c, last)
			if !began && !(last.Running() && in.started(last)) {
				return false, false
			}
			continue
		}
		if began || (last.Exited() && last.ExitCode == 0) {
			continue
		}
		if last.Exited() && !wanted(in.Pod, c, true, last) {
			return false, true
		}
		if last.Running() {
			return false, false
		}
		in.start(d, c, last)
		return false, false
	}
	return true, false
}

// started says whether a running instance passed its startup probe, and its
// postStart hook (the operation that starts it ends after the hook).
func (in *Input) started(c *Container) bool {
	if !c.Running() {
		return false
	}
	if op, ok := in.Busy["c/"+c.Name]; ok && op.Kind == StartContainer {
		return false
	}
	spec := in.container(c.Name)
	return spec == nil || spec.StartupProbe == nil || in.Probes[c.ID].Startup == Success
}

// regularContainers keeps the regular containers; over: all are done for good.
func (in *Input) regularContainers(d *Decision) (over bool) {
	over = true
	for i := range in.Pod.Spec.Containers {
		c := &in.Pod.Spec.Containers[i]
		last := in.active(c.Name)
		if in.keep(d, c, last) {
			over = false
		}
	}
	return over
}

// keep does what one regular container or sidecar needs now; it reports false
// when the container is done for good.
func (in *Input) keep(d *Decision, c *v1.Container, last *Container) bool {
	if !last.Running() {
		if !wanted(in.Pod, c, isInit(in.Pod, c.Name), last) && !in.Again[last.ID] {
			return false
		}
		in.start(d, c, last)
		return true
	}
	p := in.Probes[last.ID]
	switch {
	case last.Hash != "" && last.Hash != Hash(c):
		in.restart(d, c, last, nil, fmt.Sprintf("Container %s definition changed, will be restarted", c.Name))
	case p.Liveness == Failed:
		in.restart(d, c, last, c.LivenessProbe, fmt.Sprintf("Container %s failed liveness probe, will be restarted", c.Name))
	case p.Startup == Failed:
		in.restart(d, c, last, c.StartupProbe, fmt.Sprintf("Container %s failed startup probe, will be restarted", c.Name))
	}
	return true
}

// restart ends a running instance; its exit then leads to a new one.
func (in *Input) restart(d *Decision, c *v1.Container, last *Container, probe *v1.Probe, message string) {
	if in.stopping(last.ID, time.Time{}) {
		return
	}
	grace := in.grace()
	if probe != nil && probe.TerminationGracePeriodSeconds != nil {
		grace = time.Duration(*probe.TerminationGracePeriodSeconds) * time.Second
	}
	again := restarts(in.Pod, c, isInit(in.Pod, c.Name), 137) // its process may exit well all the same
	in.stop(d, last, in.Now.Add(grace), message, again)
}

// start starts a new instance, unless back-off, an earlier failure or another
// start of this Pod says to wait: containers start one after the other, in the
// order of the spec, so that a postStart hook holds back the next one.
func (in *Input) start(d *Decision, c *v1.Container, last *Container) {
	if in.busy("c/" + c.Name) {
		return
	}
	if f, ok := in.Failures[c.Name]; ok && f.Retry.After(in.Now) {
		d.wakeAt(f.Retry)
		return
	}
	if last.unstarted() {
		in.discard(d, last)
		return
	}
	if last == nil {
		last = in.source(c.Name)
	}
	if last.Exited() {
		if in.backsOff(d, c, last) {
			return
		}
	}
	if in.starting() || startsAny(d) {
		return
	}
	if last.Exited() {
		if d.Backoffs == nil {
			d.Backoffs = map[string]Backoff{}
		}
		d.Backoffs[c.Name] = in.backoff(c).next(last.FinishedAt)
	}
	d.act(Action{Kind: StartContainer, Key: "c/" + c.Name, Container: c.Name, RestartCount: in.nextCount(c), Round: in.round.current()})
}

// replaceTime is how long the status may be silent about an instance that is being replaced.
const replaceTime = time.Second

// replacing says whether an instance that was ended to be followed by another is about to be followed: then there is no status
// yet that says so, as in Kubernetes, where the node looks at its containers once a second. Whoever changes an image sees the
// new instance, and a Pod that is ready on both sides stays so.
func (in *Input) replacing(d *Decision) bool {
	if in.State >= Stopping || d.Final || mayRestartAll(&in.Pod.Spec) { // such a restart is announced between
		return false
	}
	for i := range in.Runtime.Containers {
		c := &in.Runtime.Containers[i]
		until, key := c.FinishedAt.Add(replaceTime), "c/"+c.Name
		followed := in.Runtime.active(c.Name).Running() && !in.busy(key) // it is not ready before its start has ended
		if !c.Exited() || !in.Again[c.ID] || !until.After(in.Now) || followed {
			continue
		}
		starts := slices.ContainsFunc(d.Actions, func(a Action) bool { return a.Key == key })
		if starts || in.busy(key) || in.stopping(c.ID, time.Time{}) {
			d.wakeAt(until)
			return true
		}
	}
	return false
}

// discard removes an instance that was created and not started, because the kubelet or the runtime ended in between. It is removed
// rather than started, since what it was made of may have changed, and before the next is made, so that never both run. It does not
// count as a start: the next instance gets its number.
func (in *Input) discard(d *Decision, c *Container) {
	if !in.blocked(d, "gc/"+c.ID) {
		d.act(Action{Kind: RemoveContainer, Key: "gc/" + c.ID, Container: c.Name, ID: c.ID})
	}
}

// nextCount is the restart count of a container's next instance. When the
// runtime has lost the earlier ones, the API still knows how many there were.
func (in *Input) nextCount(c *v1.Container) int32 {
	if newest := in.Runtime.Newest(c.Name); newest != nil {
		return newest.RestartCount + 1
	}
	old := apiStatus(in.Pod, c.Name)
	switch {
	case old == nil:
		return 0
	case old.State.Running != nil, old.State.Terminated != nil:
		return old.RestartCount + 1
	}
	return old.RestartCount
}

// crashLoop is the reason of waiting of a container that its back-off holds back.
const crashLoop = "CrashLoopBackOff"

// backsOff says whether a container that exited must wait, and says so.
func (in *Input) backsOff(d *Decision, c *v1.Container, last *Container) bool {
	b := in.backoff(c)
	at := b.until(last.FinishedAt, in.Now)
	if at.IsZero() {
		return false
	}
	if f, ok := in.Failures[c.Name]; ok && (f.Reason == "RunContainerError" || f.Reason == "PostStartHookError") {
		if shown := f.Since.Add(errorShown); shown.After(in.Now) { // say why before saying that it waits
			d.wakeAt(shown)
			return true
		}
	}
	full := fmt.Sprintf("%s_%s(%s)", in.Pod.Name, in.Pod.Namespace, in.Pod.UID)
	d.note(v1.EventTypeWarning, "BackOff", c.Name, fmt.Sprintf("Back-off restarting failed container %s in pod %s", c.Name, full))
	d.fail(c.Name, Failure{
		Reason: crashLoop, Since: in.Now, Retry: at,
		Message: fmt.Sprintf("back-off %s restarting failed container=%s pod=%s", b.Delay, c.Name, full),
	})
	d.wakeAt(at)
	return true
}

func (in *Input) starting() bool {
	for _, op := range in.Busy {
		if op.Kind == StartContainer {
			return true
		}
	}
	return false
}

func startsAny(d *Decision) bool {
	for _, a := range d.Actions {
		if a.Kind == StartContainer {
			return true
		}
	}
	return false
}

// collectDead removes instances older than the newest two of each container.
func (in *Input) collectDead(d *Decision) {
	seen := map[string]int{}
	for i := range in.Runtime.Containers {
		c := &in.Runtime.Containers[i]
		seen[c.Name]++
		if seen[c.Name] > 2 && !c.Running() && !in.blocked(d, "gc/"+c.ID) {
			d.act(Action{Kind: RemoveContainer, Key: "gc/" + c.ID, Container: c.Name, ID: c.ID})
		}
	}
}

func apiStatus(pod *v1.Pod, name string) *v1.ContainerStatus {
	for _, list := range [][]v1.ContainerStatus{
		pod.Status.ContainerStatuses, pod.Status.InitContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
