// Package topologyspread spreads the Pods that a selector matches evenly over the domains of a topology
// (spec.topologySpreadConstraints).
package topologyspread

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter     = Plugin{}
	_ framework.Waker      = Plugin{}
	_ framework.Normalizer = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "PodTopologySpread" }

// constraint is one of the Pod's.
type constraint struct {
	corev1.TopologySpreadConstraint
	index *framework.Index
	// matching are the Pods that count, in all domains.
	matching *framework.Tally
	// counts are those of each domain where not all nodes count; nil where they do.
	counts map[string]int
	// self is 1 where the Pod would count itself.
	self int
}

// prepare prepares the constraints of one kind. It costs a look-up for each.
func prepare(pod *framework.Pod, cluster *framework.Cluster, when corev1.UnsatisfiableConstraintAction) []constraint {
	var out []constraint
	for i, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != when {
			continue
		}
		term := pod.SpreadTerms[i]
		k := constraint{TopologySpreadConstraint: c, index: cluster.Index, matching: cluster.Index.Matching(true, term)}
		if term.Matches(pod.Pod, cluster.Namespaces) {
			k.self = 1
		}
		out = append(out, k)
	}
	return out
}

// hardOf prepares the constraints that must hold. Nodes without the labels of all of them count for none. It costs a look at
// each node where some nodes do not count.
func hardOf(pod *framework.Pod, cluster *framework.Cluster) []constraint {
	out := prepare(pod, cluster, corev1.DoNotSchedule)
	if len(out) == 0 || allCount(pod, out, true) {
		return out
	}
	selected := cluster.Index.Selected(pod.Pod)
	for i := range out {
		out[i].counts = map[string]int{}
	}
	for _, n := range cluster.Nodes {
		if !hasKeys(n, out) {
			continue
		}
		for i := range out {
			if included(&out[i], pod, n, selected) {
				out[i].counts[n.Node.Labels[out[i].TopologyKey]] += out[i].matching.On(n)
			}
		}
	}
	return out
}

// allCount says whether all nodes that have a constraint's key count for it; whole says that nodes without the keys of the others
// do not.
func allCount(pod *framework.Pod, cs []constraint, whole bool) bool {
	selects := len(pod.Spec.NodeSelector) > 0 || pod.Spec.Affinity != nil && pod.Spec.Affinity.NodeAffinity != nil
	for i := range cs {
		honours := cs[i].NodeAffinityPolicy == nil || *cs[i].NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor
		taints := cs[i].NodeTaintsPolicy != nil && *cs[i].NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor
		if selects && honours || taints || whole && len(cs) > 1 && !cs[i].index.AllHave(cs[i].TopologyKey) {
			return false
		}
	}
	return true
}

func hasKeys(n *framework.Node, cs []constraint) bool {
	for i := range cs {
		if _, ok := n.Node.Labels[cs[i].TopologyKey]; !ok {
			return false
		}
	}
	return true
}

// included applies the constraint's inclusion policies: by default nodes that the Pod's affinity excludes do not count,
// and tainted nodes do (KEP-3094).
func included(c *constraint, pod *framework.Pod, n *framework.Node, selected framework.Selected) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if !selected.Has(n) {
			return false
		}
	}
	if c.NodeTaintsPolicy != nil && *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyHonor {
		_, found := schedulinghelpers.FindMatchingUntoleratedTaint(klog.Background(), n.Node.Spec.Taints, pod.Spec.Tolerations, func(t *corev1.Taint) bool {
			return t.Effect != corev1.TaintEffectPreferNoSchedule
		}, true)
		return !found
	}
	return true
}

// near is how many Pods that count are in the node's domain.
func (c *constraint) near(n *framework.Node) (count int, ok bool) {
	if c.counts == nil {
		return c.matching.Near(n)
	}
	value, ok := n.Node.Labels[c.TopologyKey]
	return c.counts[value], ok
}

// least is the smallest count of a domain; zero where there are fewer domains than the constraint asks for.
func (c *constraint) least() int {
	if c.counts == nil {
		least, domains := c.index.Least(c.matching)
		if c.MinDomains != nil && domains < int(*c.MinDomains) {
			return 0
		}
		return least
	}
	if len(c.counts) == 0 || c.MinDomains != nil && len(c.counts) < int(*c.MinDomains) {
		return 0
	}
	return slices.Min(slices.Collect(maps.Values(c.counts)))
}

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	cs := hardOf(pod, cluster)
	if len(cs) == 0 {
		return nil, framework.Reason{}
	}
	const mismatch = "node(s) didn't match pod topology spread constraints"
	return func(n *framework.Node) []framework.Reason {
		for i := range cs {
			count, ok := cs[i].near(n)
			if !ok {
				return []framework.Reason{{Verdict: framework.Wrong, Message: mismatch + " (missing required label)"}}
			}
			if count+cs[i].self-cs[i].least() > int(cs[i].MaxSkew) {
				return []framework.Reason{{Verdict: framework.Busy, Message: mismatch}}
			}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a Pod that a constraint counts came, went, is going, or is counted now where it was not, or
// the reverse; a node came, went or changed what it counts by.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	if e.OldNode != nil || e.NewNode != nil {
		return e.NewNode == nil || e.NodeAppearedOr(func(old, new *corev1.Node) bool {
			return !maps.Equal(old.Labels, new.Labels) || !equality.Semantic.DeepEqual(old.Spec.Taints, new.Spec.Taints)
		})
	}
	counted := func(p *corev1.Pod, term *framework.Term) bool {
		return p != nil && !framework.Finished(p) && p.DeletionTimestamp == nil && term.MayMatch(p)
	}
	for i := range pod.SpreadTerms {
		if pod.Spec.TopologySpreadConstraints[i].WhenUnsatisfiable == corev1.DoNotSchedule &&
			counted(e.OldPod, &pod.SpreadTerms[i]) != counted(e.NewPod, &pod.SpreadTerms[i]) {
			return true
		}
	}
	return false
}
