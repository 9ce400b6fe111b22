// Package topologyspread spreads the Pods that a selector matches evenly over the domains of a topology
// (spec.topologySpreadConstraints).
package topologyspread

import (
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	schedulinghelpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter = Plugin{}
	_ framework.Waker  = Plugin{}
	_ framework.Score  = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "PodTopologySpread" }

// constraint is one of the Pod's, with the matching Pods of each domain counted.
type constraint struct {
	corev1.TopologySpreadConstraint
	selector labels.Selector
	counts   map[string]int32
	// self is 1 where the Pod would count itself.
	self int32
}

// constraintsOf prepares the constraints of one kind. Nodes without every key of that kind count for none of them.
func constraintsOf(pod *framework.Pod, cluster *framework.Cluster, when corev1.UnsatisfiableConstraintAction) []constraint {
	var out []constraint
	for _, c := range pod.Spec.TopologySpreadConstraints {
		if c.WhenUnsatisfiable != when {
			continue
		}
		sel, err := metav1.LabelSelectorAsSelector(withMatchKeys(c, pod.Labels))
		if err != nil {
			sel = labels.Nothing()
		}
		k := constraint{TopologySpreadConstraint: c, selector: sel, counts: map[string]int32{}}
		if sel.Matches(labels.Set(pod.Labels)) {
			k.self = 1
		}
		out = append(out, k)
	}
	if len(out) == 0 {
		return nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Pod)
	for _, n := range cluster.Nodes {
		if !hasKeys(n, out) {
			continue
		}
		for i := range out {
			if included(&out[i], pod, n, required) {
				out[i].count(pod.Namespace, n)
			}
		}
	}
	return out
}

func withMatchKeys(c corev1.TopologySpreadConstraint, own map[string]string) *metav1.LabelSelector {
	if len(c.MatchLabelKeys) == 0 || c.LabelSelector == nil {
		return c.LabelSelector
	}
	sel := c.LabelSelector.DeepCopy()
	for _, k := range c.MatchLabelKeys {
		if v, ok := own[k]; ok {
			sel.MatchExpressions = append(sel.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: metav1.LabelSelectorOpIn, Values: []string{v}})
		}
	}
	return sel
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
func included(c *constraint, pod *framework.Pod, n *framework.Node, required nodeaffinity.RequiredNodeAffinity) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if ok, err := required.Match(n.Node); err != nil || !ok {
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

func (c *constraint) count(namespace string, n *framework.Node) {
	value := n.Node.Labels[c.TopologyKey]
	count := c.counts[value]
	for _, p := range n.Pods {
		if p.Namespace == namespace && p.DeletionTimestamp == nil && c.selector.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	c.counts[value] = count
}

// least is the smallest count of a domain; zero where there are fewer domains than the constraint asks for.
func (c *constraint) least() int32 {
	if c.MinDomains != nil && int32(len(c.counts)) < *c.MinDomains {
		return 0
	}
	first := true
	var least int32
	for _, n := range c.counts {
		if first || n < least {
			least, first = n, false
		}
	}
	return least
}

// Prepare implements framework.Filter.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	cs := constraintsOf(pod, cluster, corev1.DoNotSchedule)
	if len(cs) == 0 {
		return nil, framework.Reason{}
	}
	least := make([]int32, len(cs))
	for i := range cs {
		least[i] = cs[i].least()
	}
	const mismatch = "node(s) didn't match pod topology spread constraints"
	return func(n *framework.Node) []framework.Reason {
		for i := range cs {
			value, ok := n.Node.Labels[cs[i].TopologyKey]
			if !ok {
				return []framework.Reason{{Verdict: framework.Wrong, Message: mismatch + " (missing required label)"}}
			}
			if cs[i].counts[value]+cs[i].self-least[i] > cs[i].MaxSkew {
				return []framework.Reason{{Verdict: framework.Busy, Message: mismatch}}
			}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: the same changes as matter to Pod affinity, since both count Pods by label.
func (Plugin) Helps(_ *framework.Pod, e framework.Event) bool {
	if e.OldNode != nil || e.NewNode != nil {
		return e.NewNode == nil || e.NodeAppearedOr(func(old, new *corev1.Node) bool { return !maps.Equal(old.Labels, new.Labels) })
	}
	return e.OldPod == nil || e.PodLeft() || e.NewPod != nil && !maps.Equal(e.OldPod.Labels, e.NewPod.Labels)
}

// PrepareScore implements framework.Score: fewer matching Pods in the node's domains are better.
func (Plugin) PrepareScore(pod *framework.Pod, cluster *framework.Cluster) func(*framework.Node) int64 {
	cs := constraintsOf(pod, cluster, corev1.ScheduleAnyway)
	if len(cs) == 0 {
		return nil
	}
	return func(n *framework.Node) int64 {
		var sum int64
		for i := range cs {
			if value, ok := n.Node.Labels[cs[i].TopologyKey]; ok {
				sum += int64(cs[i].counts[value])
			}
		}
		return sum
	}
}

// Weight implements framework.Score.
func (Plugin) Weight() int64 { return 2 }

// Scaling implements framework.Score.
func (Plugin) Scaling() framework.Scaling { return framework.Reversed }
