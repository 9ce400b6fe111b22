// Package dynamicresources keeps Pods waiting that name resource claims (spec.resourceClaims).
package dynamicresources

import (
	"fmt"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule. Nobody here allocates devices to claims, so a Pod that names one waits for ever, as a Pod on any cluster does
// while its claim cannot be allocated.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "DynamicResources" }

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	if len(pod.Spec.ResourceClaims) > 0 {
		return nil, framework.Reason{Verdict: framework.Wrong, Message: fmt.Sprintf(
			"cannot allocate claim %q of spec.resourceClaims: this scheduler does not allocate devices, remove the claim from the pod", pod.Spec.ResourceClaims[0].Name)}
	}
	return nil, framework.Reason{}
}

// Helps implements framework.Waker: nothing that happens has a claim allocated here.
func (Plugin) Helps(*framework.Pod, framework.Event) bool { return false }
