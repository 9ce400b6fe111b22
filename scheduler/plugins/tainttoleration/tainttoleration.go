// Package tainttoleration keeps Pods off nodes whose taints they do not tolerate, and off cordoned nodes.
package tainttoleration

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Score  = Plugin{}
	_ framework.Waker  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "TaintToleration" }

// repels says whether a taint of this effect keeps new Pods away.
func repels(t *corev1.Taint) bool {
	return t.Effect == corev1.TaintEffectNoSchedule || t.Effect == corev1.TaintEffectNoExecute
}

func untolerated(pod *framework.Pod, taints []corev1.Taint) (corev1.Taint, bool) {
	return schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), taints, pod.Spec.Tolerations, repels, true)
}

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	return func(n *framework.Node) []framework.Reason {
		if taint, found := untolerated(pod, n.Node.Spec.Taints); found {
			return []framework.Reason{{Verdict: framework.Wrong,
				Message: fmt.Sprintf("node(s) had untolerated taint {%s: %s}", taint.Key, taint.Value)}}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a node whose taints the Pod now tolerates.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	changed := func(old, new *corev1.Node) bool {
		return !equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints)
	}
	if !e.NodeAppearedOr(changed) {
		return false
	}
	_, found := untolerated(pod, e.NewNode.Spec.Taints)
	return !found
}

// PrepareScore implements framework.Score: how many PreferNoSchedule taints are not tolerated.
func (Plugin) PrepareScore(pod *framework.Pod, _ *framework.Cluster) func(*framework.Node) int64 {
	return func(n *framework.Node) int64 {
		var count int64
		for i := range n.Node.Spec.Taints {
			t := &n.Node.Spec.Taints[i]
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

// Scaling implements framework.Score.
func (Plugin) Scaling() framework.Scaling { return framework.Reversed }

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
		if n.Node.Spec.Unschedulable {
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
