package pod

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// The action RestartAllContainers of a container's restart rules ends all init
// and regular containers of the Pod and begins anew with the first init
// container; sandbox, volumes and ephemeral containers stay.
//
// Each instance carries the number of its round: how often that happened
// before. What a round has come to is told from the runtime's instances alone,
// so that a kubelet that starts in the middle goes on where the last one was:
//
//   - an instance of the newest round ended with a code that a rule restarts
//     all containers for: the round is over, what still runs of it is ended;
//   - nothing of it runs any more: the next round begins. Its first instance
//     has the next number, and makes all earlier ones history: they count for
//     restart counts, lastState and logs, and for no decision.

// round is what the instances of the newest round have come to.
type round struct {
	number int32
	// sources are the instances whose ends restart all; none while it goes on.
	sources []*Container
	// cleared says that nothing of an ended round runs, and that the API
	// server was told.
	cleared bool
}

// current is the round whose instances count.
func (r *round) current() int32 {
	if r.cleared {
		return r.number + 1
	}
	return r.number
}

// ending says that what runs of an ended round is still to be ended.
func (r *round) ending() bool { return len(r.sources) > 0 && !r.cleared }

func (in *Input) findRound() round {
	r := round{}
	if !mayRestartAll(&in.Pod.Spec) {
		return r
	}
	for i := range in.Runtime.Containers {
		if c := &in.Runtime.Containers[i]; !isEphemeral(in.Pod, c.Name) {
			r.number = max(r.number, c.Round)
		}
	}
	for _, list := range [][]v1.Container{in.Pod.Spec.InitContainers, in.Pod.Spec.Containers} {
		for i := range list {
			last := in.Runtime.Newest(list[i].Name)
			if last.Exited() && last.Round == r.number && restartsAll(&list[i], last.ExitCode) {
				r.sources = append(r.sources, last)
			}
		}
	}
	r.cleared = len(r.sources) > 0 && !in.anyUntil(r.number) && in.Done[announced(r.number)]
	return r
}

// anyUntil says whether any init or regular container of a round, or of an
// earlier one, runs, is made, or is about to.
func (in *Input) anyUntil(number int32) bool {
	for key, op := range in.Busy {
		if op.Kind == StartContainer && op.Round <= number && !isEphemeral(in.Pod, startOf(key)) {
			return true
		}
	}
	for i := range in.Runtime.Containers {
		c := &in.Runtime.Containers[i]
		if (c.Running() || c.unstarted()) && c.Round <= number && !isEphemeral(in.Pod, c.Name) {
			return true
		}
	}
	return false
}

// startOf is the name of the container that an operation's key starts.
func startOf(key string) string { return strings.TrimPrefix(key, "c/") }

// restartsAll says whether a container that exited with code restarts all.
func restartsAll(c *v1.Container, code int32) bool {
	r := matching(c, code)
	return r != nil && r.Action == v1.ContainerRestartRuleActionRestartAllContainers
}

// mayRestartAll says whether any container's end can restart all.
func mayRestartAll(spec *v1.PodSpec) bool {
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			if slices.ContainsFunc(list[i].RestartPolicyRules, func(r v1.ContainerRestartRule) bool {
				return r.Action == v1.ContainerRestartRuleActionRestartAllContainers
			}) {
				return true
			}
		}
	}
	return false
}

// newest is the newest instance of a container in the current round, nil if
// there is none.
func (in *Input) newest(name string) *Container { return in.ofRound(in.Runtime.Newest(name)) }

// active is newest, in the newest sandbox only.
func (in *Input) active(name string) *Container { return in.ofRound(in.Runtime.active(name)) }

func (in *Input) ofRound(c *Container) *Container {
	if c == nil || in.earlier(c) {
		return nil
	}
	return c
}

// earlier says whether an instance is of a round that is over.
func (in *Input) earlier(c *Container) bool {
	return c.Round < in.round.current() && !isEphemeral(in.Pod, c.Name)
}

// source is the instance whose end restarted all containers, if the container's
// newest one is that: its back-off holds for the next round. nil otherwise.
func (in *Input) source(name string) *Container {
	last, spec := in.Runtime.Newest(name), in.container(name)
	if spec == nil || !last.Exited() || !in.earlier(last) || !restartsAll(spec, last.ExitCode) {
		return nil
	}
	return last
}

// restartAll ends what runs of a round that is over. It reports true until the
// next round may begin: when all has ended, and the back-off of the container
// that restarts all is over.
func (in *Input) restartAll(d *Decision) bool {
	r := &in.round
	if len(r.sources) == 0 {
		return false
	}
	if in.State == Running {
		d.Event = RestartAll
		return true
	}
	if r.ending() {
		in.endRound(d)
		return true
	}
	wait := false
	for _, last := range r.sources {
		if in.backsOff(d, in.container(last.Name), last) {
			wait = true
		}
	}
	return wait
}

// endRound ends all init and regular containers at once, without hooks and
// with the shortest grace, and has the API server told.
func (in *Input) endRound(d *Decision) {
	d.RestartsAll = true
	for i := range in.Runtime.Containers {
		c := &in.Runtime.Containers[i]
		switch {
		case isEphemeral(in.Pod, c.Name):
		case c.Running() && !in.stopping(c.ID, in.Now):
			in.stop(d, c, in.Now, fmt.Sprintf("Container %s will be restarted with all containers of the pod", c.Name), false)
		case c.unstarted():
			in.discard(d, c)
		}
	}
	if key := announced(in.round.number); !in.Done[key] && !in.busy(key) {
		d.act(Action{Kind: AnnounceRestart, Key: key})
	}
}

// announced is the key under which the end of a round is told to the API server.
func announced(number int32) string { return fmt.Sprintf("restart/%d", number) }

// restartingAll is the condition that tells of a restart of all containers; nil
// if no rule of the Pod asks for any.
func (in *Input) restartingAll(phase v1.PodPhase) *v1.PodCondition {
	if !mayRestartAll(&in.Pod.Spec) {
		return nil
	}
	c := &v1.PodCondition{Type: v1.AllContainersRestarting, Status: v1.ConditionFalse}
	switch {
	case phase == v1.PodSucceeded:
		c.Reason = "PodCompleted"
	case phase == v1.PodFailed:
		c.Reason = "PodFailed"
	case in.State < Stopping && in.round.ending():
		c.Status, c.Reason = v1.ConditionTrue, "RestartAllContainersStarted"
		c.Message = "container exited with restart policy rule"
	}
	return c
}
