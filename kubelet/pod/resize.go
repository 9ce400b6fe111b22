package pod

import (
	"fmt"
	"slices"
	"strconv"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/kubelet/allocation"
)

// resize brings what is in force to what is allocated: instances that must be
// started anew for it are ended, then everything else changes in place. It
// reports whether containers have to wait with their start until that is done;
// where it failed they do not wait, for it may go on failing.
func (in *Input) resize(d *Decision) (wait bool) {
	a := in.Allocation
	if a == nil || a.Done() {
		return false
	}
	if in.starting() { // it was begun with what was allocated then
		return true
	}
	for _, list := range [][]v1.Container{in.Pod.Spec.InitContainers, in.Pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			last := in.Runtime.active(c.Name)
			if !last.Running() || !in.restartsFor(c) {
				continue
			}
			wait = true
			in.restart(d, c, last, nil, fmt.Sprintf("Container %s resize requires restart", c.Name))
			if d.Backoffs == nil {
				d.Backoffs = map[string]Backoff{}
			}
			d.Backoffs[c.Name] = Backoff{} // with other resources it is another one
		}
	}
	// A container that ends has a cgroup until it has ended, which the Pod's must have room for.
	if wait || in.ending() {
		return true
	}
	key := resizeKey(a.Generation)
	if !in.blocked(d, key) {
		d.act(Action{Kind: ResizePod, Key: key, Generation: a.Generation})
	}
	_, failed := in.Failures[key]
	return !failed
}

// ending says whether a container is being ended.
func (in *Input) ending() bool {
	for _, op := range in.Busy {
		if op.Kind == StopContainer {
			return true
		}
	}
	return false
}

const resizePrefix = "resize/"

// resizeKey names the operation that brings about the resources of a generation.
func resizeKey(generation int64) string { return resizePrefix + strconv.FormatInt(generation, 10) }

// restartsFor says whether the container must be started anew to get from what
// is in force to what is allocated.
func (in *Input) restartsFor(c *v1.Container) bool {
	a := in.Allocation
	keeps := restartable(c) || !isInit(in.Pod, c.Name)
	return allocation.Restarts(c, keeps, a.Actuated.Of(c.Name), a.Allocated.Of(c.Name))
}

// resizing says whether a resize is under way: not all that is allocated is in
// force, or an instance ended for it has no successor yet.
func (in *Input) resizing() bool {
	if in.Allocation == nil || in.State >= Stopping {
		return false
	}
	if !in.Allocation.Done() {
		return true
	}
	old := condition(in.Pod.Status.Conditions, v1.PodResizeInProgress)
	if old == nil {
		return false
	}
	for _, list := range [][]v1.Container{in.Pod.Spec.InitContainers, in.Pod.Spec.Containers} {
		for i := range list {
			if last := in.Runtime.active(list[i].Name); last != nil && !last.Running() && in.Again[last.ID] {
				return true
			}
		}
	}
	return false
}

// resizeConditions are those of a resize that waits and of one under way.
func (in *Input) resizeConditions() []v1.PodCondition {
	var out []v1.PodCondition
	if p := in.Pending; p != nil && in.State < Stopping {
		out = append(out, v1.PodCondition{
			Type: v1.PodResizePending, Status: v1.ConditionTrue, Reason: p.Reason, Message: p.Message, ObservedGeneration: p.Generation,
		})
	}
	if in.resizing() {
		c := v1.PodCondition{Type: v1.PodResizeInProgress, Status: v1.ConditionTrue, ObservedGeneration: in.Allocation.Generation}
		if f, failed := in.Failures[resizeKey(in.Allocation.Generation)]; failed {
			c.Reason, c.Message = v1.PodReasonError, f.Message
		}
		out = append(out, c)
	}
	return out
}

func resizeCondition(t v1.PodConditionType) bool {
	return t == v1.PodResizePending || t == v1.PodResizeInProgress
}

// resizeNews tells of the beginning and the end of a resize: once, as the
// condition comes and goes.
func (in *Input) resizeNews(d *Decision) {
	if d.Event != None || in.Allocation == nil || in.State >= Stopping {
		return
	}
	old := condition(in.Pod.Status.Conditions, v1.PodResizeInProgress)
	switch resizing := in.resizing(); {
	case resizing && (old == nil || old.ObservedGeneration != in.Allocation.Generation):
		d.note(v1.EventTypeNormal, "ResizeStarted", "", allocation.Message("Pod resize started", in.Pod, in.Allocation.Generation, ""))
	case !resizing && old != nil:
		d.note(v1.EventTypeNormal, "ResizeCompleted", "", allocation.Message("Pod resize completed", in.Pod, old.ObservedGeneration, ""))
	}
}

// inForce are the resources of a container in its status.
func (in *Input) inForce(c *v1.Container, running bool) *v1.ResourceRequirements {
	r := c.Resources.DeepCopy()
	if in.Allocation != nil && running {
		if have, ok := in.Allocation.Actuated.Containers[c.Name]; ok {
			r = have.DeepCopy()
		}
	}
	r.Claims = slices.Clone(c.Resources.Claims) // what they stand for is given before it starts
	return r
}

// podResources are the resources of the Pod as a whole in its status.
func (in *Input) podResources(s *v1.PodStatus) {
	old := &in.Pod.Status
	s.AllocatedResources, s.Resources = old.AllocatedResources, old.Resources
	if in.Allocation == nil {
		return
	}
	s.Resources = nil
	s.AllocatedResources = resourcehelper.PodRequests(in.Pod, resourcehelper.PodResourcesOptions{ExcludeOverhead: true})
	if len(s.AllocatedResources) == 0 {
		s.AllocatedResources = nil
	}
	if have := in.Allocation.Actuated.Pod; have != nil {
		s.Resources = have.DeepCopy()
		s.Resources.Claims = nil
	}
}
