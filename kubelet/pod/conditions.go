package pod

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
)

// conditions sets the conditions that the node owns, in Kubernetes' order, and
// keeps foreign ones.
func (in *Input) conditions(s *v1.PodStatus, ended *Termination) {
	ready := in.containersReady(s)
	sandbox := v1.PodCondition{Type: v1.PodReadyToStartContainers, Status: v1.ConditionFalse}
	if sb := in.Runtime.Sandbox(); sb != nil && sb.Ready && (in.Pod.Spec.HostNetwork || len(sb.IPs) > 0) {
		sandbox.Status = v1.ConditionTrue
	}
	mine := []v1.PodCondition{
		sandbox, in.initialized(s), in.podReady(s, ready), ready,
		{Type: v1.PodScheduled, Status: v1.ConditionTrue},
	}
	if ended != nil && ended.Condition != nil {
		mine = append([]v1.PodCondition{*ended.Condition}, mine...)
	}
	if c := in.restartingAll(s.Phase); c != nil {
		mine = append(mine, *c)
	}
	mine = append(mine, in.resizeConditions()...)
	for i := range mine {
		c := &mine[i]
		if !resizeCondition(c.Type) {
			c.ObservedGeneration = in.observed()
		}
		old := condition(in.Pod.Status.Conditions, c.Type)
		switch {
		case old != nil && old.Status == c.Status:
			c.LastTransitionTime = old.LastTransitionTime
		case c.LastTransitionTime.IsZero():
			c.LastTransitionTime = stamp(in.Now)
		}
		if old != nil {
			c.LastProbeTime = old.LastProbeTime
		}
	}
	for i := range in.Pod.Status.Conditions {
		if c := in.Pod.Status.Conditions[i]; condition(mine, c.Type) == nil && !resizeCondition(c.Type) {
			s.Conditions = append(s.Conditions, c)
		}
	}
	s.Conditions = append(s.Conditions, mine...)
}

func condition(list []v1.PodCondition, kind v1.PodConditionType) *v1.PodCondition {
	for i := range list {
		if list[i].Type == kind {
			return &list[i]
		}
	}
	return nil
}

func (in *Input) initialized(s *v1.PodStatus) v1.PodCondition {
	yes := v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionTrue}
	if len(s.ContainerStatuses) == 0 && len(in.Pod.Spec.InitContainers) > 0 {
		return v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionFalse, Reason: "UnknownContainerStatuses"}
	}
	var unknown, incomplete []string
	for i := range in.Pod.Spec.InitContainers {
		c := &in.Pod.Spec.InitContainers[i]
		st := findStatus(s.InitContainerStatuses, c.Name)
		switch {
		case st == nil:
			unknown = append(unknown, c.Name)
		case restartable(c) && (st.Started == nil || !*st.Started), !restartable(c) && !st.Ready:
			incomplete = append(incomplete, c.Name)
		}
	}
	if s.Phase == v1.PodSucceeded && len(unknown) == 0 {
		yes.Reason = "PodCompleted"
		return yes
	}
	for i := range s.ContainerStatuses {
		if st := &s.ContainerStatuses[i]; st.State.Running != nil || (st.State.Terminated != nil && st.State.Terminated.Reason != statusUnknown) {
			return yes
		}
	}
	// Once initialized, a Pod stays so, also while a restart of all containers runs the init containers again.
	if was := condition(in.Pod.Status.Conditions, v1.PodInitialized); was != nil && was.Status == v1.ConditionTrue {
		return yes
	}
	if message := complaint(unknown, "incomplete", incomplete); message != "" {
		return v1.PodCondition{Type: v1.PodInitialized, Status: v1.ConditionFalse, Reason: "ContainersNotInitialized", Message: message}
	}
	return yes
}

func complaint(unknown []string, kind string, bad []string) string {
	var parts []string
	if len(unknown) > 0 {
		parts = append(parts, fmt.Sprintf("containers with unknown status: %s", unknown))
	}
	if len(bad) > 0 {
		parts = append(parts, fmt.Sprintf("containers with %s status: %s", kind, bad))
	}
	return strings.Join(parts, ", ")
}

func (in *Input) containersReady(s *v1.PodStatus) v1.PodCondition {
	no := v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionFalse}
	if len(s.ContainerStatuses) == 0 {
		no.Reason = "UnknownContainerStatuses"
		if s.Phase == v1.PodFailed {
			no.Reason = "PodFailed"
		}
		return no
	}
	var unknown, unready []string
	check := func(name string, st *v1.ContainerStatus) {
		switch {
		case st == nil:
			unknown = append(unknown, name)
		case !st.Ready:
			unready = append(unready, name)
		}
	}
	for i := range in.Pod.Spec.InitContainers {
		if c := &in.Pod.Spec.InitContainers[i]; restartable(c) {
			check(c.Name, findStatus(s.InitContainerStatuses, c.Name))
		}
	}
	for i := range in.Pod.Spec.Containers {
		name := in.Pod.Spec.Containers[i].Name
		check(name, findStatus(s.ContainerStatuses, name))
	}
	switch {
	case s.Phase == v1.PodSucceeded && len(unknown) == 0:
		no.Reason = "PodCompleted"
		return no
	case s.Phase == v1.PodFailed && len(unknown) == 0:
		no.Reason = "PodFailed"
		return no
	}
	if message := complaint(unknown, "unready", unready); message != "" {
		no.Reason, no.Message = "ContainersNotReady", message
		return no
	}
	return v1.PodCondition{Type: v1.ContainersReady, Status: v1.ConditionTrue}
}

func (in *Input) podReady(s *v1.PodStatus, containers v1.PodCondition) v1.PodCondition {
	if containers.Status != v1.ConditionTrue {
		return v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionFalse, Reason: containers.Reason, Message: containers.Message}
	}
	var missing []string
	for _, gate := range in.Pod.Spec.ReadinessGates {
		switch c := condition(in.Pod.Status.Conditions, gate.ConditionType); {
		case c == nil:
			missing = append(missing, fmt.Sprintf("corresponding condition of pod readiness gate %q does not exist.", gate.ConditionType))
		case c.Status != v1.ConditionTrue:
			missing = append(missing, fmt.Sprintf("the status of pod readiness gate %q is not \"True\", but %v", gate.ConditionType, c.Status))
		}
	}
	if len(missing) > 0 {
		return v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionFalse, Reason: "ReadinessGatesNotReady", Message: strings.Join(missing, ", ")}
	}
	return v1.PodCondition{Type: v1.PodReady, Status: v1.ConditionTrue}
}
