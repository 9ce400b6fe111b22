// Package tainttoleration keeps Pods off nodes whose taints they do not tolerate, and off cordoned nodes.
package tainttoleration

import (
	corev1 "k8s.io/api/core/v1"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter     = Plugin{}
	_ framework.Normalizer = Plugin{}
	_ framework.Waker      = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "TaintToleration" }

// repels says whether a taint of this effect keeps new Pods away.
func repels(t *corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
}

func untolerated(pod *framework.Pod, taints []corev1.Taint) bool {
	_, found := schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), taints, pod.Spec.Tolerations, repels, true)
	return found
}

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	return func(n *framework.Node) []framework.Reason {
		if len(n.Taints) > 0 && untolerated(pod, n.Taints) {
			return []framework.Reason{{Verdict: framework.Wrong, Message: "node(s) had untolerated taint(s)"}}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a node whose taints the Pod tolerates now and did not.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	return e.NodeAppearedOr(func(old, _ *corev1.Node) bool { return untolerated(pod, old.Spec.Taints) }) && !untolerated(pod, e.NewNode.Spec.Taints)
}

// PrepareScore implements framework.Score: how many PreferNoSchedule taints are not tolerated.
func (Plugin) PrepareScore(pod *framework.Pod, _ *framework.Cluster, _ []*framework.Node) func(*framework.Node) int64 {
	return func(n *framework.Node) int64 {
		var count int64
		for i := range n.Taints {
			t := &n.Taints[i]
			if t.Effect == corev1.TaintEffectPreferNoSchedule &&
				!schedulinghelpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, t, true) {
				count++
			}
		}
		return count
	}
}

// Weight implements framework.Score.
func (Plugin) Weight() int64 { return 3 }

// Normalize implements framework.Normalizer.
func (Plugin) Normalize(raw []int64) { framework.ScaleToMax(raw, true) }

// Unschedulable is the rule of cordoned nodes.
type Unschedulable struct{}

var (
	_ framework.Filter = Unschedulable{}
	_ framework.Waker  = Unschedulable{}
)

// Name implements framework.Plugin.
func (Unschedulable) Name() string { return "NodeUnschedulable" }

// cordon is the taint that a cordoned node is taken to have.
var cordon = corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}

func toleratesCordon(pod *framework.Pod) bool {
	return schedulinghelpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &cordon, true)
}

// Prepare implements framework.Filter.
func (Unschedulable) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	if toleratesCordon(pod) {
		return nil, framework.Reason{}
	}
	return func(n *framework.Node) []framework.Reason {
		if n.Cordoned {
			return []framework.Reason{{Verdict: framework.Wrong, Message: "node(s) were unschedulable"}}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a node that is uncordoned.
func (Unschedulable) Helps(_ *framework.Pod, e framework.Event) bool {
	changed := func(old, new *corev1.Node) bool { return old.Spec.Unschedulable }
	return e.NodeAppearedOr(changed) && !e.NewNode.Spec.Unschedulable
}
