package pod

import (
	"time"

	v1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/kubelet/allocation"
)

// Input is all that a decision depends on. Decide reads it and changes nothing.
type Input struct {
	// Pod is as the API last had it, status included, but with the resources
	// that are allocated to it.
	Pod     *v1.Pod
	State   State
	Now     time.Time
	Runtime Snapshot
	// RuntimeName prefixes container IDs in the status, such as "containerd".
	RuntimeName string
	HostIPs     []string
	// StartTime is when this node first saw the Pod.
	StartTime time.Time
	// Deleted says that the API object is gone.
	Deleted bool
	// Admission is the node's answer, nil until asked.
	Admission *Refusal
	Admitted  bool
	// VolumesReady says that Prepare succeeded in this process.
	VolumesReady bool
	// Ended is why and until when the Pod ends; nil while it lives.
	Ended *Termination
	// Busy are the operations under way, by key.
	Busy map[string]Op
	// Done are one-time operations that ended well in this State.
	Done map[string]bool
	// Failures are the operations that failed last, by key; an entry goes when
	// its operation succeeds.
	Failures map[string]Failure
	Backoffs map[string]Backoff // by container name
	Probes   map[string]Probes  // by container ID
	// Health is that of the devices of containers, by name of those that have
	// some.
	Health map[string][]v1.ResourceStatus
	// Allocation is what the node gave the Pod, nil before it is admitted.
	Allocation *allocation.Record
	// Pending is why the spec asks for other resources than those, nil if it
	// does not, or was not looked at yet.
	Pending *Pending
	// Unjudged says that nobody has looked yet at the resources that the spec
	// asks for.
	Unjudged bool
	// Again are the IDs of instances that were ended to be followed by another
	// one, whatever they exit with.
	Again map[string]bool

	round round // set by Decide
}

// Refusal is why the node does not take a Pod.
type Refusal struct {
	Reason, Message string
	// Preempt are Pods without which the node takes the Pod, for which they
	// are to end.
	Preempt []*v1.Pod
}

// Pending is a resize that the node does not grant.
type Pending struct {
	Refusal
	Generation int64 // of the Pod that asks
	Since      time.Time
}

// Termination is why a Pod ends, and how fast.
type Termination struct {
	Reason    string // status.reason, empty for deletion and a natural end
	Message   string
	Failed    bool      // force phase Failed
	By        time.Time // when the grace is used up
	Condition *v1.PodCondition
}

// Op is an operation under way.
type Op struct {
	Kind  ActionKind
	By    time.Time // StopContainer: when it kills
	Round int32     // StartContainer
}

// Failure is what the last try of an operation ended with.
type Failure struct {
	Reason  string
	Message string
	Image   string // that could not be had, if that is why
	Since   time.Time
	Retry   time.Time // not before
}

// Probes are the newest results for one container instance.
type Probes struct {
	Startup, Liveness, Readiness Result
}

// Result is a probe's answer.
type Result int

const (
	// Unknown: no answer yet.
	Unknown Result = iota
	// Success: the threshold of successes was reached.
	Success
	// Failed: the threshold of failures was reached.
	Failed
)

func (r Result) String() string { return [...]string{"Unknown", "Success", "Failed"}[r] }

// ActionKind is what a worker can do for a Pod.
type ActionKind string

// What a worker can do. Every one is idempotent; those with the same key never
// run at the same time.
const (
	AskAdmission    ActionKind = "AskAdmission"
	PrepareVolumes  ActionKind = "PrepareVolumes"
	CreateSandbox   ActionKind = "CreateSandbox"
	StopSandbox     ActionKind = "StopSandbox"
	StartContainer  ActionKind = "StartContainer"
	StopContainer   ActionKind = "StopContainer"
	RemoveContainer ActionKind = "RemoveContainer"
	ResizePod       ActionKind = "ResizePod"
	// AnnounceRestart waits until the API server has, or refused, the status
	// that says that all containers restart.
	AnnounceRestart ActionKind = "AnnounceRestart"
	Release         ActionKind = "Release"
	RemoveAll       ActionKind = "RemoveAll"
)

// Action is one thing to start now.
type Action struct {
	Kind ActionKind
	// Key names what it works on; no second action of the key starts meanwhile.
	Key          string
	Container    string // name
	ID           string // of the sandbox or container
	Attempt      uint32 // CreateSandbox
	RestartCount int32  // StartContainer
	Generation   int64  // ResizePod: whose resources it brings about
	Round        int32  // StartContainer
	By           time.Time
	PreStop      bool   // StopContainer: run the hook first
	Again        bool   // StopContainer: another instance follows
	Message      string // StopContainer: the text of the Killing event
}

// Note is a Kubernetes Event to record.
type Note struct {
	Type, Reason, Message string
	Container             string // of the involved object's fieldPath
}

// Decision is the answer to an Input.
type Decision struct {
	Event    Event // applied before the next decision
	Ended    *Termination
	Actions  []Action
	Notes    []Note
	Failures map[string]Failure // to set
	Backoffs map[string]Backoff // to set
	// RestartsAll: all containers are being ended to be restarted. Starts under
	// way are cancelled, failures to start are forgotten.
	RestartsAll bool
	Wake        time.Time // decide again then at the latest; zero: no need
	Status      v1.PodStatus
	// Final says that the status is the Pod's last one: nothing runs and
	// nothing is held; a Pod being deleted may leave the API.
	Final bool
}

func (d *Decision) act(a Action) { d.Actions = append(d.Actions, a) }

func (d *Decision) note(kind, reason, container, message string) {
	d.Notes = append(d.Notes, Note{Type: kind, Reason: reason, Container: container, Message: message})
}

func (d *Decision) wakeAt(t time.Time) {
	if !t.IsZero() && (d.Wake.IsZero() || t.Before(d.Wake)) {
		d.Wake = t
	}
}

func (d *Decision) fail(key string, f Failure) {
	if d.Failures == nil {
		d.Failures = map[string]Failure{}
	}
	d.Failures[key] = f
}

// Decide is the core: one method a state, no I/O, no clock, no memory.
func Decide(in *Input) Decision {
	own := *in
	in = &own
	in.round = in.findRound()
	d := Decision{}
	switch in.State {
	case New:
		in.decideNew(&d)
	case Starting, Running:
		in.decideAlive(&d)
	case Stopping:
		in.decideStopping(&d)
	case Releasing:
		in.decideReleasing(&d)
	case Finished:
		d.Final = true
		if in.Deleted {
			d.Event = Remove
		} else {
			in.collectDead(&d)
		}
	case Removing:
		in.once(&d, RemoveAll, Removed)
	case Gone:
	}
	in.pullBackOff(&d)
	d.Status = in.status(&d)
	in.resizeNews(&d)
	return d
}

// decideNew asks the node for admission, unless the Pod is here already: what
// runs was admitted by an earlier process.
func (in *Input) decideNew(d *Decision) {
	switch {
	case in.mustEnd(d):
	case in.terminalInAPI():
		d.Event, d.Ended = End, &Termination{By: in.Now}
	case in.Runtime.Sandbox() != nil || in.Admitted:
		d.Event = Admit
	case in.Admission != nil:
		d.Event = End
		d.Ended = &Termination{Reason: in.Admission.Reason, Message: in.Admission.Message, Failed: true, By: in.Now}
		d.note(v1.EventTypeWarning, in.Admission.Reason, "", in.Admission.Message)
	case !in.blocked(d, "admit"):
		d.act(Action{Kind: AskAdmission, Key: "admit"})
	}
}

// terminalInAPI says whether the Pod's life ended before this process.
func (in *Input) terminalInAPI() bool {
	return in.Pod.Status.Phase == v1.PodFailed || in.Pod.Status.Phase == v1.PodSucceeded
}

// mustEnd raises End when something outside of the containers ends the Pod.
func (in *Input) mustEnd(d *Decision) bool {
	switch {
	case in.Ended != nil:
		d.Ended = in.Ended
	case in.Deleted:
		d.Ended = &Termination{By: in.Now}
	case in.Pod.DeletionTimestamp != nil:
		d.Ended = &Termination{By: in.graceEnd()}
	case in.pastDeadline(d):
		d.Ended = &Termination{
			Reason: "DeadlineExceeded", Failed: true, By: in.Now.Add(in.grace()),
			Message: "Pod was active on the node longer than the specified deadline",
		}
		d.note(v1.EventTypeNormal, "DeadlineExceeded", "", "Pod was active on the node longer than the specified deadline")
	default:
		return false
	}
	d.Event = End
	return true
}

func (in *Input) pastDeadline(d *Decision) bool {
	seconds := in.Pod.Spec.ActiveDeadlineSeconds
	if seconds == nil || in.StartTime.IsZero() {
		return false
	}
	at := in.StartTime.Add(time.Duration(*seconds) * time.Second)
	if !at.After(in.Now) {
		return true
	}
	d.wakeAt(at)
	return false
}

// grace is the Pod's own termination grace.
func (in *Input) grace() time.Duration {
	if s := in.Pod.Spec.TerminationGracePeriodSeconds; s != nil && *s >= 0 {
		return time.Duration(*s) * time.Second
	}
	return 30 * time.Second
}

// graceEnd is when the grace of a deletion is used up. Counting from now, not
// from deletionTimestamp, the node's clock need not agree with the server's;
// the worker keeps the earliest.
func (in *Input) graceEnd() time.Time {
	if s := in.Pod.DeletionGracePeriodSeconds; s != nil {
		return in.Now.Add(time.Duration(max(*s, 0)) * time.Second)
	}
	return in.Now.Add(in.grace())
}

func (in *Input) busy(key string) bool { _, ok := in.Busy[key]; return ok }

// blocked says whether key is busy or waits for a retry, which it schedules.
func (in *Input) blocked(d *Decision, key string) bool {
	if in.busy(key) {
		return true
	}
	if f, ok := in.Failures[key]; ok && f.Retry.After(in.Now) {
		d.wakeAt(f.Retry)
		return true
	}
	return false
}

// once runs one operation until it succeeded, then raises the event.
func (in *Input) once(d *Decision, kind ActionKind, then Event) {
	key := string(kind)
	switch {
	case in.Done[key]:
		d.Event = then
	case !in.blocked(d, key):
		d.act(Action{Kind: kind, Key: key})
	}
}

// errorShown is how long a failure to start is shown before the back-off that
// it led to: ErrImagePull before ImagePullBackOff, RunContainerError before
// CrashLoopBackOff.
const errorShown = 3 * time.Second

// pullBackOff turns pull errors that wait for their retry into back-offs.
func (in *Input) pullBackOff(d *Decision) {
	for key, f := range in.Failures {
		if f.Reason != "ErrImagePull" || !f.Retry.After(in.Now) || in.busy("start") {
			continue
		}
		c := in.container(key)
		if c == nil {
			continue
		}
		if shown := f.Since.Add(errorShown); shown.After(in.Now) {
			d.wakeAt(shown)
			continue
		}
		message := "Back-off pulling image \"" + f.Image + "\""
		d.note(v1.EventTypeNormal, "BackOff", c.Name, message)
		d.note(v1.EventTypeWarning, "Failed", c.Name, "Error: ImagePullBackOff")
		f.Reason, f.Message = "ImagePullBackOff", message+": ErrImagePull: "+f.Message
		d.fail(key, f)
	}
}
