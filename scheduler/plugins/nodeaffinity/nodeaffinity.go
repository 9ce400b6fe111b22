// Package nodeaffinity keeps Pods on the nodes that they name or select: spec.nodeSelector and node affinity.
package nodeaffinity

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Narrower   = Plugin{}
	_ framework.Normalizer = Plugin{}
	_ framework.Waker      = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "NodeAffinity" }

const (
	mismatch = "node(s) didn't match Pod's node affinity/selector"
	conflict = "pod affinity terms conflict"
)

// Only implements framework.Narrower: where each term of the required affinity has the name of a node, as DaemonSets write it,
// those are the only ones.
func (Plugin) Only(pod *framework.Pod) (names []string, limited bool, none framework.Reason) {
	a := pod.Spec.Affinity
	if a == nil || a.NodeAffinity == nil || a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil ||
		len(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms) == 0 {
		return nil, false, framework.Reason{}
	}
	// The terms are alternatives, the fields of one are not.
	for _, t := range a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		ofTerm, named := []string(nil), false
		for _, r := range t.MatchFields {
			if r.Key != metav1.ObjectNameField || r.Operator != corev1.NodeSelectorOpIn {
				continue
			}
			if !named {
				ofTerm, named = slices.Clone(r.Values), true
				continue
			}
			ofTerm = slices.DeleteFunc(ofTerm, func(name string) bool { return !slices.Contains(r.Values, name) })
		}
		if !named {
			return nil, false, framework.Reason{}
		}
		names = append(names, ofTerm...)
	}
	if len(names) == 0 {
		return nil, true, framework.Reason{Verdict: framework.Wrong, Message: conflict}
	}
	slices.Sort(names)
	return slices.Compact(names), true, framework.Reason{}
}

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	selected := cluster.Index.Selected(pod.Pod)
	if selected.Any() {
		return nil, framework.Reason{}
	}
	return func(n *framework.Node) []framework.Reason {
		if !selected.Has(n) {
			return []framework.Reason{{Verdict: framework.Wrong, Message: mismatch}}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a node that matches and did not.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	if !e.NodeLabelsChanged() {
		return false
	}
	selection := framework.SelectionOf(pod.Pod)
	return selection.Matches(e.NewNode) && (e.OldNode == nil || !selection.Matches(e.OldNode))
}

// PrepareScore implements framework.Score: the sum of the weights of the preferred terms that match.
func (Plugin) PrepareScore(pod *framework.Pod, _ *framework.Cluster, _ []*framework.Node) func(*framework.Node) int64 {
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

// Normalize implements framework.Normalizer.
func (Plugin) Normalize(raw []int64) { framework.ScaleToMax(raw, false) }
