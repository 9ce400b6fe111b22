// Package volumerestrictions keeps a claim that is for one Pod (ReadWriteOncePod) from a second one, and a disk that one machine
// can use once from a second Pod on it.
package volumerestrictions

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "VolumeRestrictions" }

// Prepare implements framework.Filter. No node will do while another Pod has the claim, but on that Pod's own node
// preemption helps, so the answer is given for each.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	for _, c := range pod.Claims {
		claim := cluster.Storage.Claim(c.NamespacedName)
		if claim == nil || !slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteOncePod) || !taken(pod, c.NamespacedName, cluster) {
			continue
		}
		against := []framework.Reason{{Verdict: framework.Busy,
			Message: "node has pod using PersistentVolumeClaim with the same name and ReadWriteOncePod access mode"}}
		return func(*framework.Node) []framework.Reason { return against }, framework.Reason{}
	}
	if !disks(pod.Pod) {
		return nil, framework.Reason{}
	}
	return func(n *framework.Node) []framework.Reason {
		if diskTaken(pod, n) {
			return []framework.Reason{{Verdict: framework.Busy, Message: "node(s) had no available disk"}}
		}
		return nil
	}, framework.Reason{}
}

// taken says whether another Pod uses the claim. The nodes are looked at once more, for preemption takes Pods off them to
// see what that helps.
func taken(pod *framework.Pod, claim types.NamespacedName, cluster *framework.Cluster) bool {
	for n := range cluster.ClaimUsers[claim] {
		for uid, other := range n.Pods {
			if uid != pod.UID && other.Uses(claim) {
				return true
			}
		}
	}
	return false
}

// Helps implements framework.Waker: a Pod with one of the claims or disks left, one of the claims was made anew, or a node came.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	switch {
	case e.ClaimOf(pod) || e.NodeAppeared():
		return true
	case !e.PodLeft():
		return false
	case disks(e.OldPod) && disks(pod.Pod):
		return true
	}
	return slices.ContainsFunc(framework.NewPod(e.OldPod).Claims, func(c framework.Claim) bool { return pod.Uses(c.NamespacedName) })
}
