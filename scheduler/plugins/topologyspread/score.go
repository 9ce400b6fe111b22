package topologyspread

import (
	"math"
	"slices"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/scheduler/framework"
)

// defaults spread the Pods of one group that have no constraints of their own: over nodes, and less so over zones.
var defaults = []corev1.TopologySpreadConstraint{
	{MaxSkew: 3, TopologyKey: corev1.LabelHostname, WhenUnsatisfiable: corev1.ScheduleAnyway},
	{MaxSkew: 5, TopologyKey: corev1.LabelTopologyZone, WhenUnsatisfiable: corev1.ScheduleAnyway},
}

// ignored is the raw score of a node that lacks a label of the Pod's own constraints.
const ignored = -1

// soft is a constraint by which nodes are compared.
type soft struct {
	constraint
	// weight makes up for a topology of many domains having few Pods in each.
	weight float64
	// perNode says that each node is a domain of its own, whatever the constraint's inclusion policies.
	perNode bool
	// sums are the Pods of each domain that a node to be compared is in; nil where the tally says it.
	sums map[string]int
}

// softOf prepares the constraints that nodes are compared by; whole says that only nodes with all of their labels count.
func softOf(pod *framework.Pod, cluster *framework.Cluster) (out []soft, whole bool) {
	if len(pod.Spec.TopologySpreadConstraints) > 0 {
		for _, c := range prepare(pod, cluster, corev1.ScheduleAnyway) {
			out = append(out, soft{constraint: c})
		}
		return out, true
	}
	selector := cluster.Groups.Selector(pod.Pod)
	if selector == nil {
		return nil, false
	}
	for _, c := range defaults {
		term := framework.TermOf(c.TopologyKey, selector, []string{pod.Namespace}, nil)
		out = append(out, soft{constraint: constraint{TopologySpreadConstraint: c, index: cluster.Index, matching: cluster.Index.Matching(true, term)}})
	}
	return out, false
}

// PrepareScore implements framework.Score: the Pods that match in the node's domains, each constraint's weighted by the logarithm
// of how many domains the nodes to be compared are in, and with maxSkew blurring the difference. Less is better. It costs a
// look at each of these nodes, and at those with Pods that match where some nodes do not count.
func (Plugin) PrepareScore(pod *framework.Pod, cluster *framework.Cluster, fit []*framework.Node) func(*framework.Node) int64 {
	cs, whole := softOf(pod, cluster)
	if len(cs) == 0 {
		return nil
	}
	counted := fit
	if whole {
		counted = slices.DeleteFunc(slices.Clone(fit), func(n *framework.Node) bool { return !labelled(n, cs) })
	}
	for i := range cs {
		cs[i].perNode = cs[i].TopologyKey == corev1.LabelHostname
		cs[i].weight = math.Log(float64(cs[i].domains(counted) + 2))
	}
	sum(pod, cluster, cs, whole)
	return func(n *framework.Node) int64 {
		if whole && !labelled(n, cs) {
			return ignored
		}
		var score float64
		for i := range cs {
			if count, ok := cs[i].count(n); ok {
				score += float64(count)*cs[i].weight + float64(cs[i].MaxSkew-1)
			}
		}
		return int64(math.Round(score))
	}
}

// domains is how many the nodes are in; those without the label, where they count, are in one.
func (c *soft) domains(nodes []*framework.Node) int {
	if c.perNode {
		return len(nodes)
	}
	values := map[string]bool{}
	for _, n := range nodes {
		values[n.Node.Labels[c.TopologyKey]] = true
	}
	return len(values)
}

// sum counts the Pods of each domain where not all nodes count.
func sum(pod *framework.Pod, cluster *framework.Cluster, cs []soft, whole bool) {
	plain := make([]constraint, len(cs))
	for i := range cs {
		plain[i] = cs[i].constraint
	}
	if allCount(pod, plain, whole) {
		return
	}
	selected := cluster.Index.Selected(pod.Pod)
	for i := range cs {
		c := &cs[i]
		c.sums = map[string]int{}
		if c.perNode {
			continue
		}
		c.matching.Each(func(n *framework.Node, count int) {
			if n.Node != nil && !(whole && !labelled(n, cs)) && included(&c.constraint, pod, n, selected) {
				c.sums[n.Node.Labels[c.TopologyKey]] += count
			}
		})
	}
}

// count is how many Pods match in the node's domain; ok says whether it is in one.
func (c *soft) count(n *framework.Node) (count int, ok bool) {
	value, ok := n.Node.Labels[c.TopologyKey]
	switch {
	case !ok:
		return 0, false
	case c.perNode:
		return c.matching.On(n), true
	case c.sums != nil:
		return c.sums[value], true
	}
	return c.matching.Near(n)
}

func labelled(n *framework.Node, cs []soft) bool {
	for i := range cs {
		if _, ok := n.Node.Labels[cs[i].TopologyKey]; !ok {
			return false
		}
	}
	return true
}

// Weight implements framework.Score.
func (Plugin) Weight() int64 { return 2 }

// Normalize implements framework.Normalizer: the fewest Pods get the best score, the most what the fewest are of the most.
func (Plugin) Normalize(raw []int64) {
	lowest, highest := int64(math.MaxInt64), int64(0)
	for _, v := range raw {
		if v != ignored {
			lowest, highest = min(lowest, v), max(highest, v)
		}
	}
	for i, v := range raw {
		switch {
		case v == ignored:
			raw[i] = 0
		case highest == 0:
			raw[i] = framework.MaxScore
		default:
			raw[i] = framework.MaxScore * (highest + lowest - v) / highest
		}
	}
}
