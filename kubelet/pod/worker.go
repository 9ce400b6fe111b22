package pod

import (
	"context"
	"maps"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/allocation"
	"github.com/peapod/peapod/kubelet/static"
)

// worker is the shell around the core for one Pod: it holds what Decide must
// remember, starts what Decide asks for, and is the only one to do either.
type worker struct {
	m       *Manager
	uid     types.UID
	name    types.NamespacedName // guarded by m.mu
	own     bool                 // a static Pod
	running bool                 // guarded by m.mu

	kick  chan struct{} // something below changed; capacity 1
	shown chan struct{} // closed with the first publish
	empty chan struct{} // closed with the first publish after which the Pod never holds anything of the node
	ops   sync.WaitGroup

	mu      sync.Mutex // guards the mailbox and what readers see
	pod     *v1.Pod
	deleted bool
	evicted *Termination
	dirty   bool // the runtime has news of this Pod
	results []result
	latest  *v1.Pod  // pod with the newest status, shared with readers
	seen    Snapshot // shared with readers, when shown is closed
	holds   bool     // the Pod holds resources of the node
	idle    bool     // nothing of it runs, or will

	allocated *allocation.Record // what it holds; immutable, replaced through record
	pending   *Pending           // why it does not get what it asks for; immutable

	recording sync.Mutex // one change of the record at a time

	// Owned by the goroutine.
	state        State
	startTime    time.Time
	since        time.Time // when this process saw the Pod
	stopping     time.Time // when its end began
	snapshot     Snapshot
	exited       map[string]Container // statuses that cannot change any more
	admission    *Refusal
	admitted     bool
	volumesReady bool
	ended        *Termination
	busy         map[string]*operation
	done         map[string]bool
	failures     map[string]Failure
	tries        map[string]int // failed tries in a row, by key
	backoffs     map[string]Backoff
	again        map[string]bool // instances ended to be followed by another
	noticed      noticed
	freed        bool // something of the node was given back since the last publish
	published    *v1.PodStatus
	emptied      bool
	fresh        bool // this process admitted the Pod, which has not run yet
}

func newWorker(m *Manager, pod *v1.Pod) *worker {
	w := &worker{
		m: m, uid: pod.UID, name: nameOf(pod), own: static.Is(pod), pod: pod, latest: pod, dirty: true,
		kick: make(chan struct{}, 1), shown: make(chan struct{}), empty: make(chan struct{}),
		exited: map[string]Container{}, busy: map[string]*operation{}, done: map[string]bool{},
		failures: map[string]Failure{}, tries: map[string]int{}, backoffs: map[string]Backoff{},
		again: map[string]bool{},
	}
	w.since = m.cfg.Clock.Now()
	w.startTime = w.since
	if pod.Status.StartTime != nil {
		w.startTime = pod.Status.StartTime.Time
	}
	return w
}

// awaitShown waits until it is known what the Pod has, which it is not at once
// when the kubelet starts beside running containers.
func (w *worker) awaitShown(ctx context.Context) error {
	select {
	case <-w.shown:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// update changes the mailbox and wakes the worker.
func (w *worker) update(change func()) {
	w.mu.Lock()
	change()
	w.mu.Unlock()
	select {
	case w.kick <- struct{}{}:
	default:
	}
}

// run lives the Pod's life until it is gone or ctx ends; operations are
// waited for.
func (w *worker) run(ctx context.Context) {
	ctx, cancel := context.WithCancel(ctx)
	defer w.ops.Wait()
	defer cancel()
	w.m.cfg.Metrics.WorkerStarted(w.m.cfg.Clock.Since(w.since))
	for {
		began := w.m.cfg.Clock.Now()
		wake := w.step(ctx)
		w.m.cfg.Metrics.Synced("sync", w.m.cfg.Clock.Since(began))
		if w.state == Gone {
			return
		}
		var timer <-chan time.Time
		stop := func() bool { return true }
		if !wake.IsZero() {
			t := w.m.cfg.Clock.NewTimer(max(0, wake.Sub(w.m.cfg.Clock.Now())))
			timer, stop = t.C(), t.Stop
		}
		select {
		case <-ctx.Done():
		case <-w.kick:
		case <-timer:
		}
		stop()
		if ctx.Err() != nil {
			return
		}
	}
}

// step takes the mail, looks at the runtime if it has news, and decides until
// nothing moves any more. It returns when to look again.
func (w *worker) step(ctx context.Context) time.Time {
	w.mu.Lock()
	pod, deleted, evicted, dirty, results := w.pod, w.deleted, w.evicted, w.dirty, w.results
	w.dirty, w.results = false, nil
	w.mu.Unlock()
	for _, r := range results {
		dirty = w.absorb(ctx, pod, r) || dirty
	}
	if dirty {
		if err := w.refresh(ctx); err != nil {
			if ctx.Err() != nil {
				return time.Time{}
			}
			w.m.log(ctx, pod).Error(err, "Reading the pod from the runtime failed; trying again")
			w.mu.Lock()
			w.dirty = true
			w.mu.Unlock()
			return w.m.cfg.Clock.Now().Add(time.Second)
		}
	}
	if w.ended == nil && evicted != nil {
		w.ended = evicted
	}
	if len(w.snapshot.Sandboxes) > 0 && !deleted { // admitted before there were records
		if err := w.recordAdmission(pod); err != nil {
			w.m.log(ctx, pod).Error(err, "Recording what a pod has failed; it is not resized until that succeeds")
		}
	}
	w.noticeResize(pod)
	if w.published == nil { // what an earlier process learnt by probes, as the API tells it
		w.probe(pod)
	}
	for {
		in := w.input(pod, deleted)
		d := Decide(in)
		w.apply(in, &d)
		if d.Event == None && !in.replacing(&d) {
			w.publish(pod, in.Pod, &d)
		}
		for _, a := range d.Actions { // after the status is set: AnnounceRestart waits for it
			w.launch(ctx, in, a)
		}
		if d.Event == None {
			return d.Wake
		}
		next, err := Next(w.state, d.Event)
		if err != nil {
			w.m.log(ctx, pod).Error(err, "The pod's state machine has a bug; the pod is kept as it is")
			return time.Time{}
		}
		w.m.log(ctx, pod).V(4).Info("Pod moves", "from", w.state, "event", d.Event, "to", next)
		w.timeMove(pod, next)
		w.move(next)
		if next == Gone {
			return time.Time{}
		}
	}
}

func (w *worker) move(next State) {
	w.state = next
	clear(w.done)
	if next == Stopping {
		for _, op := range w.busy { // whatever would bring up more
			switch op.Kind {
			case AskAdmission, StartContainer, CreateSandbox, PrepareVolumes, AnnounceRestart:
				op.cancel()
			}
		}
		clear(w.failures)
	}
}

// input gathers what Decide looks at.
func (w *worker) input(pod *v1.Pod, deleted bool) *Input {
	p := *pod
	w.mu.Lock()
	allocated, pending := w.allocated, w.pending
	w.mu.Unlock()
	unjudged := false
	if allocated != nil {
		p = *allocated.Allocated.Apply(pod)
		unjudged = w.state < Stopping && !allocated.Allocated.Equal(allocation.Of(pod)) && (pending == nil || pending.Generation != pod.Generation)
	}
	if w.published != nil {
		p.Status = w.carry(pod)
	}
	in := &Input{
		Pod: &p, State: w.state, Now: w.m.cfg.Clock.Now(), Runtime: w.visible(), RuntimeName: w.m.cfg.RuntimeName, HostIPs: w.m.cfg.HostIPs,
		StartTime: w.startTime, Deleted: deleted || w.over(pod), Admission: w.admission, Admitted: w.admitted,
		VolumesReady: w.volumesReady, Ended: w.ended, Busy: map[string]Op{}, Done: w.done,
		Failures: w.failures, Backoffs: w.backoffs, Probes: w.m.cfg.Probes.Results(w.uid),
		Allocation: allocated, Pending: pending, Unjudged: unjudged, Again: w.again,
	}
	for key, op := range w.busy {
		in.Busy[key] = op.Op
	}
	in.Health = w.m.health(&p)
	return in
}

// visible is the snapshot without instances that an operation is about to
// start: between create and start they are nothing to tell of.
func (w *worker) visible() Snapshot {
	out := w.snapshot
	for i := range w.snapshot.Containers {
		c := &w.snapshot.Containers[i]
		if op := w.busy["c/"+c.Name]; op == nil || op.Kind != StartContainer || c.State != runtimeapi.ContainerState_CONTAINER_CREATED {
			continue
		}
		out.Containers = nil
		for j := range w.snapshot.Containers {
			if j != i {
				out.Containers = append(out.Containers, w.snapshot.Containers[j])
			}
		}
		break // one container starts at a time
	}
	return out
}

// carry is the newest status that this worker computed, with the parts that
// others own as the API has them.
func (w *worker) carry(pod *v1.Pod) v1.PodStatus {
	s := *w.published
	s.NominatedNodeName = pod.Status.NominatedNodeName
	s.ResourceClaimStatuses = pod.Status.ResourceClaimStatuses
	s.ExtendedResourceClaimStatus = pod.Status.ExtendedResourceClaimStatus
	s.Conditions = nil
	for _, c := range pod.Status.Conditions {
		if !owned(c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	for _, c := range w.published.Conditions {
		if owned(c.Type) || condition(s.Conditions, c.Type) == nil {
			s.Conditions = append(s.Conditions, c)
		}
	}
	return s
}

// owned says whether the node alone writes conditions of a type.
func owned(t v1.PodConditionType) bool {
	switch t {
	case v1.PodReadyToStartContainers, v1.PodInitialized, v1.PodReady, v1.ContainersReady, v1.PodScheduled,
		v1.PodResizePending, v1.PodResizeInProgress, v1.AllContainersRestarting:
		return true
	}
	return false
}

// apply remembers what was decided.
func (w *worker) apply(in *Input, d *Decision) {
	if d.Ended != nil {
		w.ended = d.Ended
	}
	if d.RestartsAll {
		w.restartsAll(in.Pod)
	}
	maps.Copy(w.failures, d.Failures)
	maps.Copy(w.backoffs, d.Backoffs)
	for _, n := range d.Notes {
		w.m.note(in.Pod, n)
	}
	for _, a := range d.Actions {
		if a.Again {
			w.again[a.ID] = true
		}
	}
}

// restartsAll cancels the starts of init and regular containers, and forgets
// why earlier ones failed: what comes is their next round's.
func (w *worker) restartsAll(pod *v1.Pod) {
	for key, op := range w.busy {
		if op.Kind == StartContainer && !isEphemeral(pod, startOf(key)) {
			op.cancelled = true
			op.cancel()
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			delete(w.failures, list[i].Name)
			delete(w.tries, list[i].Name)
		}
	}
}

// publish shows the decision to the API, which has the Pod as in pod, and to
// readers and the prober, who see it with what it has.
func (w *worker) publish(pod, has *v1.Pod, d *Decision) {
	first := w.published == nil
	if !first {
		w.countEnds(w.published, &d.Status)
	}
	w.published = &d.Status
	latest := *has
	latest.Status = d.Status
	w.mu.Lock()
	w.latest = &latest
	w.seen = w.snapshot
	held := w.holds
	w.holds = (w.admitted && w.state < Finished) || (w.state > New && w.state < Finished)
	w.idle = w.state >= Releasing
	freed := w.freed || (held && !w.holds)
	w.freed = false
	w.mu.Unlock()
	if first {
		close(w.shown)
	}
	if w.state >= Finished && !w.emptied {
		w.emptied = true
		close(w.empty)
	}
	if freed {
		w.m.RoomChanged()
	}
	w.probe(&latest)
	_, delayed := w.failures[string(Release)]
	switch {
	case w.state >= Removing || w.deletedNow(): // there is no object to write to
	case w.state == New: // it says nothing that the API does not know
	case w.state == Releasing && pod.DeletionTimestamp != nil && !delayed: // the last word follows at once
	default:
		w.m.cfg.Status.Set(pod, d.Status, d.Final)
	}
}

func (w *worker) deletedNow() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.deleted
}

// probe keeps probes running for exactly the containers that run.
func (w *worker) probe(pod *v1.Pod) {
	var instances []Instance
	for i := range w.snapshot.Containers {
		c := &w.snapshot.Containers[i]
		if !c.Running() || isEphemeral(pod, c.Name) {
			continue
		}
		if op := w.busy["c/"+c.Name]; op != nil && op.Kind == StartContainer {
			continue // its postStart hook runs
		}
		spec := FindContainer(pod, c.Name)
		if spec == nil || (isInit(pod, c.Name) && !restartable(spec)) {
			continue
		}
		instances = append(instances, Instance{Container: spec, ID: c.ID, StartedAt: c.StartedAt})
	}
	w.m.cfg.Probes.Sync(pod, pod.Status.PodIP, instances, w.state >= Stopping)
}
