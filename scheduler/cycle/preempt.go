package cycle

import (
	"cmp"
	"slices"

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

// maxCandidates bounds how many nodes are worked through for one Pod.
const maxCandidates = 100

// Eligible says whether the Pod may preempt others at all; if not, why, worded as in events.
func Eligible(pod *framework.Pod, promised *framework.Node) (ok bool, why string) {
	if pod.Spec.PreemptionPolicy != nil && *pod.Spec.PreemptionPolicy == corev1.PreemptNever {
		return false, "not eligible due to preemptionPolicy=Never."
	}
	if promised != nil {
		for _, p := range promised.Pods {
			if p.DeletionTimestamp != nil && p.Priority() < pod.Priority() {
				return false, "not eligible due to a terminating pod on the nominated node."
			}
		}
	}
	return true, ""
}

// Preempt finds the node among busy ones where the fewest and least important Pods of lower priority have to go for pod to
// fit, nil if there is none. It changes the cluster while it tries, and leaves it as it was.
func (c *Cycle) Preempt(pod *framework.Pod, cluster *framework.Cluster, busy []*framework.Node, budgets []*policyv1.PodDisruptionBudget) *Plan {
	var best *Plan
	tried := 0
	for _, n := range busy {
		if tried == maxCandidates {
			break
		}
		if !slices.ContainsFunc(slices.Collect(podsOf(n)), func(p *framework.Pod) bool { return p.Priority() < pod.Priority() }) {
			continue
		}
		tried++
		if p := c.plan(pod, cluster, n, budgets); p != nil && (best == nil || p.better(best)) {
			best = p
		}
	}
	return best
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
// that a budget protects first, the more important before the less.
func (c *Cycle) plan(pod *framework.Pod, cluster *framework.Cluster, n *framework.Node, budgets []*policyv1.PodDisruptionBudget) *Plan {
	var lower []*framework.Pod
	for p := range podsOf(n) {
		if p.Priority() < pod.Priority() {
			lower = append(lower, p)
		}
	}
	defer func() {
		for _, p := range lower {
			n.Put(p)
		}
	}()
	for _, p := range lower {
		n.Remove(p.UID)
	}
	if !c.fits(pod, cluster, n) {
		return nil
	}
	slices.SortFunc(lower, moreImportant)
	protected, others := split(lower, budgets)
	plan := &Plan{Node: n}
	stay := func(list []*framework.Pod) (gone int) {
		for _, p := range list {
			n.Put(p)
			if c.fits(pod, cluster, n) {
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
	return plan
}

// fits says whether pod may run on n as the cluster is now.
func (c *Cycle) fits(pod *framework.Pod, cluster *framework.Cluster, n *framework.Node) bool {
	cs, none := c.checks(pod, cluster)
	if none.Verdict != framework.Fits {
		return false
	}
	against, _ := cs.ask(pod, n)
	return len(against) == 0
}

// moreImportant sorts higher priority first, then the one that runs longer.
func moreImportant(a, b *framework.Pod) int {
	return cmp.Or(cmp.Compare(b.Priority(), a.Priority()), started(a).Compare(started(b).Time))
}

func started(p *framework.Pod) *metav1.Time {
	if p.Status.StartTime != nil {
		return p.Status.StartTime
	}
	return &p.CreationTimestamp
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
		started(o.Victims[0]).Compare(started(p.Victims[0]).Time),
	) < 0
}
