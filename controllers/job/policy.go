package job

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
)

// verdict is what the Pod failure policy says of a failed Pod.
type verdict struct {
	action batchv1.PodFailurePolicyAction
	// why is the message of a failed Job.
	why string
}

// judge applies the policy's first rule that matches. A failure that none matches counts.
func judge(policy *batchv1.PodFailurePolicy, p *corev1.Pod) verdict {
	if policy == nil || p.Status.Phase != corev1.PodFailed {
		return verdict{action: batchv1.PodFailurePolicyActionCount}
	}
	for i, rule := range policy.Rules {
		if rule.OnExitCodes != nil {
			if c := matchExitCodes(rule.OnExitCodes, p); c != nil {
				return verdict{rule.Action, fmt.Sprintf("Container %s for pod %s/%s failed with exit code %v matching %v rule at index %d",
					c.Name, p.Namespace, p.Name, c.State.Terminated.ExitCode, rule.Action, i)}
			}
		} else if c := matchConditions(rule.OnPodConditions, p); c != nil {
			return verdict{rule.Action, fmt.Sprintf("Pod %s/%s has condition %v matching %v rule at index %d",
				p.Namespace, p.Name, c.Type, rule.Action, i)}
		}
	}
	return verdict{action: batchv1.PodFailurePolicyActionCount}
}

// matchExitCodes returns the first container that ended with a code that the rule names. Success never matches.
func matchExitCodes(r *batchv1.PodFailurePolicyOnExitCodesRequirement, p *corev1.Pod) *corev1.ContainerStatus {
	for _, list := range [][]corev1.ContainerStatus{p.Status.ContainerStatuses, p.Status.InitContainerStatuses} {
		for i := range list {
			c := &list[i]
			if c.State.Terminated == nil || c.State.Terminated.ExitCode == 0 || r.ContainerName != nil && *r.ContainerName != c.Name {
				continue
			}
			in := slices.Contains(r.Values, c.State.Terminated.ExitCode)
			if in == (r.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn) {
				return c
			}
		}
	}
	return nil
}

func matchConditions(patterns []batchv1.PodFailurePolicyOnPodConditionsPattern, p *corev1.Pod) *corev1.PodCondition {
	for i := range p.Status.Conditions {
		c := &p.Status.Conditions[i]
		for _, want := range patterns {
			if c.Type == want.Type && c.Status == want.Status {
				return c
			}
		}
	}
	return nil
}

// succeeds returns the index of the success policy's first rule that the completed indexes meet, -1 if there is none.
func succeeds(policy *batchv1.SuccessPolicy, completed indexes, completions int) int {
	if policy == nil {
		return -1
	}
	return slices.IndexFunc(policy.Rules, func(r batchv1.SuccessPolicyRule) bool {
		have, need := len(completed), 0
		if r.SucceededIndexes != nil {
			wanted := parseIndexes(*r.SucceededIndexes, completions)
			have, need = 0, len(wanted)
			for i := range wanted {
				if completed[i] {
					have++
				}
			}
		}
		if r.SucceededCount != nil {
			need = int(*r.SucceededCount)
		}
		return have >= need
	})
}
