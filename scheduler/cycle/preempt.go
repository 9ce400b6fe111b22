package cycle

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plan is whom to preempt so that a Pod fits.
type Plan struct {
	Node *framework.Node
	// Victims are the Pods to delete, the most important first; it may be empty, where only Pods that are going anyway are
	// in the way.
	Victims []*framework.Pod
	// violations is how many of them a disruption budget protects.
	violations int
}

// Of the nodes where preemption may help, a tenth is worked through for one Pod, but not fewer than minCandidates; more, until there
// is one where no disruption budget is broken.
const (
	minCandidates    = 100
	candidatePercent = 10
)

// Eligible says whether the Pod may preempt others at all; if not, why, worded as in events. promised is the node on which room
// is kept for it, nil for none; busy are those that would do if Pods went away.
func Eligible(pod *framework.Pod, promised *framework.Node, busy []*framework.Node) (ok bool, why string) {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return false, "not eligible due to preemptionPolicy=Never."
	}
	if promised != nil && slices.Contains(busy, promised) {
		for _, p := range promised.Pods {
			if p.Priority() < pod.Priority() && preempted(p) {
				return false, "not eligible due to a terminating pod on the nominated node."
			}
		}
	}
	return true, ""
}

// preempted says whether the Pod is going because it was preempted.
func preempted(p *framework.Pod) bool {
	return p.DeletionTimestamp != nil && slices.ContainsFunc(p.Status.Conditions, func(c corev1.PodCondition) bool {
		return c.Type == corev1.DisruptionTarget && c.Status == corev1.ConditionTrue && c.Reason == corev1.PodReasonPreemptionByScheduler
	})
}

// Preempt finds the node among the busy ones of the decision where the fewest and least important Pods of lower priority have to go
// for pod to fit. Where there is none, why says so, worded as in events. It changes the cluster while it tries, and leaves it as
// it was.
func (c *Cycle) Preempt(pod *framework.Pod, cluster *framework.Cluster, d Decision, budgets []*policyv1.PodDisruptionBudget) (best *Plan, why string) {
	reasons := map[string]int{}
	if hopeless := d.Nodes - len(d.Busy); hopeless > 0 {
		reasons["Preemption is not helpful for scheduling"] = hopeless
	}
	want := max(len(d.Busy)*candidatePercent/100, minCandidates)
	found, harmless := 0, false
	c.turn++
	for i := range d.Busy {
		n := d.Busy[(c.turn+i)%len(d.Busy)]
		p, against := c.plan(pod, cluster, n, budgets)
		if p == nil {
			for _, r := range against {
				reasons[r.Message]++
			}
			continue
		}
		if best == nil || p.better(best) {
			best = p
		}
		found++
		harmless = harmless || p.violations == 0
		if harmless && found >= want {
			break
		}
	}
	if best == nil {
		return nil, fmt.Sprintf("%s %s.", noneOf(d.Nodes), counted(reasons))
	}
	return best, ""
}

func podsOf(n *framework.Node) func(yield func(*framework.Pod) bool) {
	return func(yield func(*framework.Pod) bool) {
		for _, p := range n.Pods {
			if !yield(p) {
				return
			}
		}
	}
}

// plan works out the victims on one node: all Pods of lower priority go, and as many as possible are let stay again, those
// that a budget protects first, the more important before the less. Where that does not help, against says why.
func (c *Cycle) plan(pod *framework.Pod, cluster *framework.Cluster, n *framework.Node, budgets []*policyv1.PodDisruptionBudget) (_ *Plan, against []framework.Reason) {
	var lower []*framework.Pod
	for p := range podsOf(n) {
		if p.Priority() < pod.Priority() {
			lower = append(lower, p)
		}
	}
	if len(lower) == 0 {
		return nil, []framework.Reason{{Message: "No preemption victims found for incoming pod"}}
	}
	defer func() {
		for _, p := range lower {
			n.Put(p)
		}
	}()
	for _, p := range lower {
		n.Remove(p.UID)
	}
	if against = c.against(pod, cluster, n); len(against) > 0 {
		return nil, against
	}
	slices.SortFunc(lower, moreImportant)
	protected, others := split(lower, budgets)
	plan := &Plan{Node: n}
	stay := func(list []*framework.Pod) (gone int) {
		for _, p := range list {
			n.Put(p)
			if len(c.against(pod, cluster, n)) == 0 {
				continue
			}
			n.Remove(p.UID)
			plan.Victims = append(plan.Victims, p)
			gone++
		}
		return gone
	}
	plan.violations = stay(protected)
	stay(others)
	slices.SortFunc(plan.Victims, moreImportant)
	return plan, nil
}

// against says what pod may not run on n for, as the cluster is now.
func (c *Cycle) against(pod *framework.Pod, cluster *framework.Cluster, n *framework.Node) []framework.Reason {
	cs, none := c.checks(pod, cluster)
	if none.Verdict != framework.Fits {
		return []framework.Reason{none}
	}
	against, _ := cs.ask(pod, n)
	return against
}

// moreImportant sorts higher priority first, then the one that runs longer; the name decides between equals.
func moreImportant(a, b *framework.Pod) int {
	return cmp.Or(cmp.Compare(b.Priority(), a.Priority()), started(a).Compare(started(b)),
		cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
}

// started is when the Pod's node began with it, later than any other time for one that has not been begun with.
func started(p *framework.Pod) time.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime.Time
	}
	return time.Unix(1<<40, 0)
}

// split separates the Pods whose going would break a budget. Budgets are used up in the order of the list.
func split(list []*framework.Pod, budgets []*policyv1.PodDisruptionBudget) (protected, others []*framework.Pod) {
	left := make([]int32, len(budgets))
	for i, b := range budgets {
		left[i] = b.Status.DisruptionsAllowed
	}
	for _, p := range list {
		breaks := false
		for i, b := range budgets {
			if b.Namespace != p.Namespace || len(p.Labels) == 0 {
				continue
			}
			selector, err := metav1.LabelSelectorAsSelector(b.Spec.Selector)
			if err != nil || selector.Empty() || !selector.Matches(labels.Set(p.Labels)) {
				continue
			}
			// One that was disrupted already is counted already.
			if _, counted := b.Status.DisruptedPods[p.Name]; counted {
				continue
			}
			left[i]--
			breaks = breaks || left[i] < 0
		}
		if breaks {
			protected = append(protected, p)
		} else {
			others = append(others, p)
		}
	}
	return protected, others
}

// better orders plans as upstream does: fewer broken budgets, a less important first victim, a lower sum of priorities, fewer
// victims, and victims that have run for less long.
func (p *Plan) better(o *Plan) bool {
	if p.violations != o.violations {
		return p.violations < o.violations
	}
	if len(p.Victims) == 0 || len(o.Victims) == 0 {
		return len(p.Victims) < len(o.Victims)
	}
	sum := func(list []*framework.Pod) (s int64) {
		for _, v := range list {
			// Shifted so that more victims of negative priority do not make a smaller sum.
			s += int64(v.Priority()) + 1<<31
		}
		return s
	}
	return cmp.Or(
		cmp.Compare(p.Victims[0].Priority(), o.Victims[0].Priority()),
		cmp.Compare(sum(p.Victims), sum(o.Victims)),
		cmp.Compare(len(p.Victims), len(o.Victims)),
		started(o.Victims[0]).Compare(started(p.Victims[0])),
	) < 0
}
