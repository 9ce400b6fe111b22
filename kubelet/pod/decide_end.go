package pod

import (
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
)

// decideStopping ends the containers: regular and ephemeral ones together,
// then the sidecars one by one in reverse order, all within one grace.
func (in *Input) decideStopping(d *Decision) {
	by := in.stopBy()
	if in.Ended != nil && by.Before(in.Ended.By) {
		ended := *in.Ended
		ended.By = by
		d.Ended = &ended
	}
	// A start under way has its context cancelled by the worker; its outcome
	// is awaited, so that no container appears behind our back.
	waiting := len(in.Busy) > 0
	for i := range in.Runtime.Containers {
		c := &in.Runtime.Containers[i]
		if c.Running() && !in.isSidecar(c.Name) {
			waiting = true
			in.end(d, c, by)
		}
	}
	if !waiting || in.onlyStopsSidecars() {
		for i := len(in.Pod.Spec.InitContainers) - 1; i >= 0; i-- {
			c := &in.Pod.Spec.InitContainers[i]
			if last := in.Runtime.Newest(c.Name); restartable(c) && last.Running() {
				waiting = true
				in.end(d, last, by)
				break
			}
		}
	}
	if !waiting {
		d.Event = Stopped
	}
}

// stopBy is when the grace ends: a deletion may shorten it any time.
func (in *Input) stopBy() time.Time {
	by := in.Now.Add(in.grace())
	if in.Ended != nil {
		by = in.Ended.By
	}
	switch {
	case in.Deleted:
		by = minTime(by, in.Now)
	case in.Pod.DeletionTimestamp != nil:
		by = minTime(by, in.graceEnd())
	}
	return by
}

func minTime(a, b time.Time) time.Time {
	if b.Before(a) {
		return b
	}
	return a
}

func (in *Input) isSidecar(name string) bool {
	for i := range in.Pod.Spec.InitContainers {
		if c := &in.Pod.Spec.InitContainers[i]; c.Name == name {
			return restartable(c)
		}
	}
	return false
}

// onlyStopsSidecars says whether all that is under way is ending sidecars.
func (in *Input) onlyStopsSidecars() bool {
	for i := range in.Runtime.Containers {
		if c := &in.Runtime.Containers[i]; c.Running() && !in.isSidecar(c.Name) {
			return false
		}
	}
	for _, op := range in.Busy {
		if op.Kind != StopContainer {
			return false
		}
	}
	return true
}

// end stops a container of a Pod that ends.
func (in *Input) end(d *Decision, c *Container, by time.Time) {
	if in.stopping(c.ID, by) {
		return
	}
	in.stop(d, c, by, fmt.Sprintf("Stopping container %s", c.Name), false)
}

// stopping says whether the instance is being ended, by `by` at the latest
// unless zero. A second of slack keeps clock reading from looking like a change.
func (in *Input) stopping(id string, by time.Time) bool {
	for key, op := range in.Busy {
		if op.Kind != StopContainer || len(key) < 5+len(id) || key[5:5+len(id)] != id {
			continue
		}
		if by.IsZero() || !by.Before(op.By.Add(-time.Second)) {
			return true
		}
	}
	return false
}

// stop starts the end of one instance. A second, faster end of the same
// instance runs beside the first one, which it makes return sooner. again: the
// instance is followed by another one, whatever it exits with.
func (in *Input) stop(d *Decision, c *Container, by time.Time, message string, again bool) {
	key := fmt.Sprintf("stop/%s/%d", c.ID, by.Unix())
	first := !in.stopping(c.ID, time.Time{})
	if in.blocked(d, key) {
		return
	}
	if !first {
		message = ""
	} else {
		d.note(v1.EventTypeNormal, "Killing", c.Name, message)
	}
	d.act(Action{
		Kind: StopContainer, Key: key, Container: c.Name, ID: c.ID, By: by,
		PreStop: first && by.After(in.Now), Message: message, Again: again,
	})
}

// decideReleasing gives back what the Pod holds. A container that appears late
// sends nothing back: the sandbox's end kills it.
func (in *Input) decideReleasing(d *Decision) {
	in.once(d, Release, Released)
}
