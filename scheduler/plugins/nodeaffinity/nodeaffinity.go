// Package nodeaffinity keeps Pods on the nodes that they name or select: spec.nodeSelector and node affinity.
package nodeaffinity

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

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
func (Plugin) Name() string { return "NodeAffinity" }

const (
	mismatch = "node(s) didn't match Pod's node affinity/selector"
)

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	if len(pod.Spec.NodeSelector) == 0 && (pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil) {
		return nil, framework.Reason{}
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	return func(n *framework.Node) []framework.Reason {
		if ok, err := required.Match(n.Node); err != nil || !ok {
			return []framework.Reason{{Verdict: framework.Wrong, Message: mismatch}}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a node whose labels now match.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	changed := func(old, new *corev1.Node) bool { return !maps.Equal(old.Labels, new.Labels) }
	if !e.NodeAppearedOr(changed) {
		return false
	}
	ok, err := nodeaffinity.GetRequiredNodeAffinity(pod.Pod).Match(e.NewNode)
	return err == nil && ok
}

// PrepareScore implements framework.Score: the sum of the weights of the preferred terms that match.
func (Plugin) PrepareScore(pod *framework.Pod, _ *framework.Cluster) func(*framework.Node) int64 {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || len(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // validation has let it pass, so upstream would not score it either
	}
	return func(n *framework.Node) int64 { return terms.Score(n.Node) }
}

// Weight implements framework.Score.
func (Plugin) Weight() int64 { return 2 }

// Scaling implements framework.Score.
func (Plugin) Scaling() framework.Scaling { return framework.Relative }
