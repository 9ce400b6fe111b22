package pod

import (
	"hash/fnv"
	"strconv"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// restartable says whether an init container is a sidecar: it keeps running
// beside the regular containers.
func restartable(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// Hash identifies what of a container cannot change while it runs.
func Hash(c *v1.Container) string {
	h := fnv.New32a()
	h.Write([]byte(strconv.Quote(c.Name) + strconv.Quote(c.Image)))
	return strconv.FormatUint(uint64(h.Sum32()), 16)
}

// restarts says whether a container that exited with code is started again. A
// rule for the code restarts it, alone or with all others, whatever the policy.
func restarts(pod *v1.Pod, c *v1.Container, init bool, code int32) bool {
	if matching(c, code) != nil {
		return true
	}
	policy := string(pod.Spec.RestartPolicy)
	if c.RestartPolicy != nil {
		policy = string(*c.RestartPolicy)
	}
	switch policy {
	case string(v1.RestartPolicyNever):
		return false
	case string(v1.RestartPolicyOnFailure):
		return code != 0
	default: // an ordinary init container that succeeded is done for good
		return code != 0 || !init || restartable(c)
	}
}

// matching is the first of a container's rules that is for an exit with code,
// nil if none is: of several the first counts.
func matching(c *v1.Container, code int32) *v1.ContainerRestartRule {
	for i := range c.RestartPolicyRules {
		if r := &c.RestartPolicyRules[i]; ruleMatches(r, code) {
			return r
		}
	}
	return nil
}

func ruleMatches(r *v1.ContainerRestartRule, code int32) bool {
	if r.ExitCodes == nil {
		return false
	}
	listed := false
	for _, v := range r.ExitCodes.Values {
		listed = listed || v == code
	}
	if r.ExitCodes.Operator == v1.ContainerRestartRuleOnExitCodesOpNotIn {
		return !listed
	}
	return listed
}

// wanted says whether an instance must be followed by another one: it is
// missing, never ran, was lost, or its restart rules say so.
func wanted(pod *v1.Pod, c *v1.Container, init bool, last *Container) bool {
	if last == nil {
		return true
	}
	switch last.State {
	case runtimeapi.ContainerState_CONTAINER_RUNNING:
		return false
	case runtimeapi.ContainerState_CONTAINER_EXITED:
		return restarts(pod, c, init, last.ExitCode)
	default:
		return true
	}
}

// container finds a container of any of the three lists by name.
func (in *Input) container(name string) *v1.Container { return FindContainer(in.Pod, name) }

// FindContainer finds a container of any of the three lists by name; an
// ephemeral one is converted. nil if there is none.
func FindContainer(pod *v1.Pod, name string) *v1.Container {
	for i := range pod.Spec.Containers {
		if pod.Spec.Containers[i].Name == name {
			return &pod.Spec.Containers[i]
		}
	}
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return &pod.Spec.InitContainers[i]
		}
	}
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			c := v1.Container(pod.Spec.EphemeralContainers[i].EphemeralContainerCommon)
			return &c
		}
	}
	return nil
}

// isInit says whether the name is an init container's.
func isInit(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.InitContainers {
		if pod.Spec.InitContainers[i].Name == name {
			return true
		}
	}
	return false
}

func isEphemeral(pod *v1.Pod, name string) bool {
	for i := range pod.Spec.EphemeralContainers {
		if pod.Spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}
