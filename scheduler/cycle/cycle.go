// Package cycle decides where one Pod goes. It is a pure function of the Pod, the cluster and the rules.
package cycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/peapod/peapod/scheduler/framework"
)

// Decision is what came of it: a node, or the reasons why there is none.
type Decision struct {
	// Node is nil where the Pod fits nowhere.
	Node *framework.Node
	// Short says why, worded as FailedScheduling events are, without what preemption could do about it.
	Short string
	// RejectedBy are the plugins that turned nodes down: what they wait for decides when the Pod is tried again.
	RejectedBy []string
	// Busy are the nodes that would do if Pods went away.
	Busy []*framework.Node
	// Unblockable are the nodes that might do if something which the Pod has were taken back.
	Unblockable []*framework.Node
	// Nodes is how many nodes there are; 0 says so in Short, and that preemption is beside the point.
	Nodes int
	// Err is why no decision could be made; nothing else is set then but Laps.
	Err error
	// Laps are what its parts took, in order and without those that it did not come to. Empty where the cycle has no clock.
	Laps Laps
}

// Cycle holds the rules and, between Pods, where the search of nodes begins and how often there was a choice between equals. It
// makes one decision at a time.
type Cycle struct {
	// Now times the parts of decisions; nil for not.
	Now func() time.Time

	filters []framework.Filter
	scores  []framework.Score
	next    int
	turn    int

	// What a decision has gathered is of no use after it; its room is kept for the next one, some 16 kB with 500 nodes.
	fit, equals []*framework.Node
	total, raw  []int64
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

// Decide finds the best node for pod. It costs the filters for each node until enough fit, and the scores for those. A node that
// is promised to the Pod is taken if it fits, whatever its score.
func (c *Cycle) Decide(pod *framework.Pod, cluster *framework.Cluster) (d Decision) {
	watch := startWatch(c.Now)
	defer func() { d.Laps = watch.laps }()
	all := len(cluster.Nodes)
	if all == 0 {
		return Decision{Short: "no nodes available to schedule pods"}
	}
	t := trial{nodes: all, reasons: map[string]int{}, rejectedBy: map[string]bool{}}
	checks, none := c.checks(pod, cluster)
	if none.Verdict == framework.Failed {
		watch.lap(framework.PreFilter, none.Verdict)
		return Decision{Err: fmt.Errorf("running PreFilter plugin %q: %s", none.Plugin, none.Message)}
	}
	var nodes []*framework.Node
	var by []string
	if none.Verdict == framework.Fits {
		nodes, by, none = c.narrow(pod, cluster)
	}
	watch.lap(framework.PreFilter, none.Verdict)
	if none.Verdict != framework.Fits {
		t.rejectedBy[none.Plugin] = true
		return t.rejected(none.Message)
	}
	if by != nil {
		for _, name := range by {
			t.rejectedBy[name] = true
		}
		if others := all - len(nodes); others > 0 {
			t.reasons[fmt.Sprintf("node(s) didn't satisfy plugin(s) %v", by)] = others
		}
	}
	if n := cluster.Promised(pod.UID); n != nil && n.Node != nil && (by == nil || slices.Contains(nodes, n)) {
		if against, _ := checks.ask(pod, n); len(against) == 0 {
			watch.lap(framework.Filtering, framework.Fits)
			return Decision{Node: n, Nodes: all}
		}
	}
	looked, want := 0, enough(len(nodes))
	t.fit = slices.Grow(c.fit[:0], want)
	for ; looked < len(nodes) && len(t.fit) < want && t.failed == nil; looked++ {
		t.look(pod, checks, nodes[(c.next+looked)%len(nodes)])
	}
	c.fit = t.fit
	defer c.forget()
	watch.lap(framework.Filtering, framework.Outcome(t.failed))
	if t.failed != nil {
		return Decision{Err: t.failed}
	}
	if len(nodes) > 0 {
		c.next = (c.next + looked) % len(nodes)
	}
	if len(t.fit) == 0 {
		return t.rejected("")
	}
	best := c.best(pod, cluster, t.fit)
	watch.lap(framework.Scoring, framework.Fits)
	return Decision{Node: best, Nodes: all}
}

// forget lets nodes go that may be removed before the next decision.
func (c *Cycle) forget() {
	clear(c.fit)
	clear(c.equals)
}

// trial is what the search of nodes for one Pod has found so far.
type trial struct {
	nodes       int
	fit, busy   []*framework.Node
	unblockable []*framework.Node
	reasons     map[string]int
	rejectedBy  map[string]bool
	failed      error
}

// look asks the filters about a node.
func (t *trial) look(pod *framework.Pod, checks checks, n *framework.Node) {
	against, plugin := checks.ask(pod, n)
	if len(against) == 0 {
		t.fit = append(t.fit, n)
		return
	}
	t.rejectedBy[plugin] = true
	wrong := false
	for _, r := range against {
		t.reasons[r.Message]++
		wrong = wrong || r.Verdict == framework.Wrong
		if r.Unblockable {
			t.unblockable = append(t.unblockable, n)
		}
		if r.Verdict == framework.Failed {
			t.failed = fmt.Errorf("running %q filter plugin: %s", plugin, r.Message)
		}
	}
	if !wrong {
		t.busy = append(t.busy, n)
	}
}

// rejected is the decision that there is no node, for a reason that concerns the Pod, or if that is empty for those of the nodes.
func (t *trial) rejected(reason string) Decision {
	d := Decision{Nodes: t.nodes, Busy: t.busy, Unblockable: t.unblockable, RejectedBy: slices.Sorted(maps.Keys(t.rejectedBy))}
	if reason == "" {
		reason = counted(t.reasons)
	}
	d.Short = fmt.Sprintf("%s %s.", noneOf(t.nodes), reason)
	return d
}

func noneOf(nodes int) string { return fmt.Sprintf("0/%d nodes are available:", nodes) }

// counted words how many nodes have each reason.
func counted(reasons map[string]int) string {
	parts := make([]string, 0, len(reasons))
	for message, n := range reasons {
		parts = append(parts, fmt.Sprintf("%d %s", n, message))
	}
	slices.Sort(parts)
	return strings.Join(parts, ", ")
}

// narrow returns the nodes to look at, in an order that lasts between Pods, and by which plugins the others are out of question;
// nil for none.
func (c *Cycle) narrow(pod *framework.Pod, cluster *framework.Cluster) (nodes []*framework.Node, by []string, none framework.Reason) {
	var only []string
	for _, f := range c.filters {
		narrower, ok := f.(framework.Narrower)
		if !ok {
			continue
		}
		names, limited, none := narrower.Only(pod)
		if none.Verdict != framework.Fits {
			none.Plugin = f.Name()
			return nil, nil, none
		}
		if !limited {
			continue
		}
		if by == nil {
			only = names
		} else {
			only = slices.DeleteFunc(slices.Clone(only), func(name string) bool { return !slices.Contains(names, name) })
		}
		by = append(by, f.Name())
	}
	if by == nil {
		return cluster.Nodes, nil, framework.Reason{}
	}
	for _, name := range only {
		if n := cluster.Named[name]; n != nil && n.Node != nil {
			nodes = append(nodes, n)
		}
	}
	slices.Sort(by)
	return nodes, by, framework.Reason{}
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
	if len(n.Promised) == 0 {
		return cs.first(n)
	}
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

// best returns the node of the highest total score, of equals another at each turn.
func (c *Cycle) best(pod *framework.Pod, cluster *framework.Cluster, fit []*framework.Node) *framework.Node {
	if len(fit) == 1 {
		return fit[0]
	}
	total := c.totals(pod, cluster, fit)
	best := slices.Max(total)
	c.equals = c.equals[:0]
	for i, n := range fit {
		if total[i] == best {
			c.equals = append(c.equals, n)
		}
	}
	c.turn++
	return c.equals[c.turn%len(c.equals)]
}

// totals are the weighted sums of the scores of each node, until the next decision.
func (c *Cycle) totals(pod *framework.Pod, cluster *framework.Cluster, fit []*framework.Node) []int64 {
	c.total = slices.Grow(c.total[:0], len(fit))[:len(fit)]
	c.raw = slices.Grow(c.raw[:0], len(fit))[:len(fit)]
	total, raw := c.total, c.raw
	clear(total)
	for _, s := range c.scores {
		of := s.PrepareScore(pod, cluster, fit)
		if of == nil {
			continue
		}
		for i, n := range fit {
			raw[i] = of(n)
		}
		if normalizer, ok := s.(framework.Normalizer); ok {
			normalizer.Normalize(raw)
		}
		for i := range raw {
			total[i] += raw[i] * s.Weight()
		}
	}
	return total
}
