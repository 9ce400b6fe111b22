// Package volumes keeps Pods waiting whose claims do not exist.
package volumes

import (
	"fmt"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule. The server has no persistent volume claims yet, so a Pod that names one waits for ever, as a Pod on
// any cluster does while its claim is missing.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "VolumeBinding" }

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.PersistentVolumeClaim != nil:
			return nil, framework.Reason{Verdict: framework.Wrong, Message: fmt.Sprintf("persistentvolumeclaim %q not found", v.PersistentVolumeClaim.ClaimName)}
		case v.Ephemeral != nil:
			return nil, framework.Reason{Verdict: framework.Wrong, Message: fmt.Sprintf("waiting for ephemeral volume controller to create the persistentvolumeclaim %q", pod.Name+"-"+v.Name)}
		}
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return nil, framework.Reason{Verdict: framework.Wrong, Message: fmt.Sprintf("resourceclaim of %q not found: dynamic resource allocation is not served", pod.Spec.ResourceClaims[0].Name)}
	}
	return nil, framework.Reason{}
}

// Helps implements framework.Waker: nothing that nodes or Pods do makes a claim appear.
func (Plugin) Helps(*framework.Pod, framework.Event) bool { return false }
