// Package cycle decides where one Pod goes. It is a pure function of the Pod, the cluster and the rules.
package cycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/peapod/peapod/scheduler/framework"
)

// Decision is what came of it: a node, or the reasons why there is none.
type Decision struct {
	// Node is nil where the Pod fits nowhere.
	Node *framework.Node
	// Message says why, worded as FailedScheduling events are.
	Message string
	// Short is Message without what preemption could do about it.
	Short string
	// RejectedBy are the plugins that turned nodes down: what they wait for decides when the Pod is tried again.
	RejectedBy []string
	// Busy are the nodes that would do if Pods went away.
	Busy []*framework.Node
}

// Cycle holds the rules and, between Pods, where the search of nodes begins.
type Cycle struct {
	filters []framework.Filter
	scores  []framework.Score
	next    int
}

// New returns a cycle with the given rules.
func New(plugins []framework.Plugin) *Cycle {
	c := &Cycle{}
	for _, p := range plugins {
		if f, ok := p.(framework.Filter); ok {
			c.filters = append(c.filters, f)
		}
		if s, ok := p.(framework.Score); ok {
			c.scores = append(c.scores, s)
		}
	}
	return c
}

// In a large cluster a Pod is content with the best of some nodes that fit: at least minFeasible, and a share of all that
// shrinks from 50 % at 100 nodes to minPercent, as upstream's default.
const (
	minFeasible = 100
	minPercent  = 5
)

// enough is how many nodes that fit end the search.
func enough(nodes int) int {
	if nodes <= minFeasible {
		return nodes
	}
	percent := max(50-nodes/125, minPercent)
	return max(nodes*percent/100, minFeasible)
}

// Decide finds the best node for pod. It costs the filters for each node until enough fit, and the scores for those.
func (c *Cycle) Decide(pod *framework.Pod, cluster *framework.Cluster) Decision {
	if len(cluster.Nodes) == 0 {
		return Decision{Message: "no nodes available to schedule pods"}
	}
	checks, none := c.checks(pod, cluster)
	if none.Verdict != framework.Fits {
		return reject(len(cluster.Nodes), map[string]int{none.Message: 0}, map[string]bool{none.Plugin: true}, len(cluster.Nodes))
	}
	var fit, busy []*framework.Node
	reasons, rejectedBy, hopeless := map[string]int{}, map[string]bool{}, 0
	want := enough(len(cluster.Nodes))
	start := c.next % len(cluster.Nodes)
	looked := 0
	for ; looked < len(cluster.Nodes) && len(fit) < want; looked++ {
		n := cluster.Nodes[(start+looked)%len(cluster.Nodes)]
		against, plugin := checks.ask(pod, n)
		if len(against) == 0 {
			fit = append(fit, n)
			continue
		}
		rejectedBy[plugin] = true
		wrong := false
		for _, r := range against {
			reasons[r.Message]++
			wrong = wrong || r.Verdict == framework.Wrong
		}
		if wrong {
			hopeless++
		} else {
			busy = append(busy, n)
		}
	}
	c.next = start + looked
	if len(fit) == 0 {
		d := reject(len(cluster.Nodes), reasons, rejectedBy, hopeless)
		d.Busy = busy
		return d
	}
	return Decision{Node: c.best(pod, cluster, fit)}
}

// checks are the filters, prepared for one Pod.
type checks []check

type check struct {
	plugin string
	of     func(*framework.Node) []framework.Reason
}

// checks prepares the filters; a reason that is not zero says that no node will do.
func (c *Cycle) checks(pod *framework.Pod, cluster *framework.Cluster) (checks, framework.Reason) {
	var out checks
	for _, f := range c.filters {
		of, none := f.Prepare(pod, cluster)
		if none.Verdict != framework.Fits {
			none.Plugin = f.Name()
			return nil, none
		}
		if of != nil {
			out = append(out, check{f.Name(), of})
		}
	}
	return out, framework.Reason{}
}

// ask returns what the first filter that has something against the node has. Pods of no lower priority that have been
// promised room on the node count as if they were there; but as they may never come, the Pod must fit without them too.
func (cs checks) ask(pod *framework.Pod, n *framework.Node) (against []framework.Reason, plugin string) {
	var tried []*framework.Pod
	for _, p := range n.Promised {
		if p.UID != pod.UID && p.Priority() >= pod.Priority() && n.Pods[p.UID] == nil {
			n.Put(p)
			tried = append(tried, p)
		}
	}
	against, plugin = cs.first(n)
	for _, p := range tried {
		n.Remove(p.UID)
	}
	if len(against) == 0 && len(tried) > 0 {
		return cs.first(n)
	}
	return against, plugin
}

func (cs checks) first(n *framework.Node) (against []framework.Reason, plugin string) {
	for _, ch := range cs {
		if against = ch.of(n); len(against) > 0 {
			return against, ch.plugin
		}
	}
	return nil, ""
}

// best returns the node of the highest total score; the first of equals, which changes from Pod to Pod as the search
// begins elsewhere.
func (c *Cycle) best(pod *framework.Pod, cluster *framework.Cluster, fit []*framework.Node) *framework.Node {
	if len(fit) == 1 {
		return fit[0]
	}
	total := make([]int64, len(fit))
	raw := make([]int64, len(fit))
	for _, s := range c.scores {
		of := s.PrepareScore(pod, cluster)
		if of == nil {
			continue
		}
		for i, n := range fit {
			raw[i] = of(n)
		}
		scale(raw, s.Scaling())
		for i := range raw {
			total[i] += raw[i] * s.Weight()
		}
	}
	best := 0
	for i := range total {
		if total[i] > total[best] {
			best = i
		}
	}
	return fit[best]
}

// scale brings raw scores to 0..MaxScore in place.
func scale(raw []int64, s framework.Scaling) {
	if s == framework.Absolute {
		return
	}
	lo, hi := slices.Min(raw), slices.Max(raw)
	// Scores that are never negative are scaled from zero, so that small differences stay small.
	lo = min(lo, 0)
	for i, v := range raw {
		switch {
		case hi == lo:
			raw[i] = 0
			if s == framework.Reversed {
				raw[i] = framework.MaxScore
			}
		case s == framework.Reversed:
			raw[i] = framework.MaxScore - (v-lo)*framework.MaxScore/(hi-lo)
		default:
			raw[i] = (v - lo) * framework.MaxScore / (hi - lo)
		}
	}
}

// reject words the event. A reason with count 0 is about the Pod, not about nodes.
func reject(nodes int, reasons map[string]int, by map[string]bool, hopeless int) Decision {
	var parts []string
	for message, n := range reasons {
		if n == 0 {
			parts = append(parts, message)
			continue
		}
		parts = append(parts, fmt.Sprintf("%d %s", n, message))
	}
	slices.Sort(parts)
	short := fmt.Sprintf("0/%d nodes are available: %s.", nodes, strings.Join(parts, ", "))
	var preemption []string
	if busy := nodes - hopeless; busy > 0 {
		preemption = append(preemption, fmt.Sprintf("%d No preemption victims found for incoming pod", busy))
	}
	if hopeless > 0 {
		preemption = append(preemption, fmt.Sprintf("%d Preemption is not helpful for scheduling", hopeless))
	}
	slices.Sort(preemption)
	return Decision{
		Short:      short,
		Message:    fmt.Sprintf("%s preemption: 0/%d nodes are available: %s.", short, nodes, strings.Join(preemption, ", ")),
		RejectedBy: slices.Sorted(maps.Keys(by)),
	}
}
