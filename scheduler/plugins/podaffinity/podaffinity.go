// Package podaffinity puts Pods near or far from others: Pod affinity and anti-affinity, required and preferred.
package podaffinity

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

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
func (Plugin) Name() string { return "InterPodAffinity" }

const (
	noAffinity     = "node(s) didn't match pod affinity rules"
	noAntiAffinity = "node(s) didn't match pod anti-affinity rules"
	existingRefuse = "node(s) didn't satisfy existing pods anti-affinity rules"
)

// Prepare implements framework.Filter. It costs a look-up for each term of the Pod, and for each kind of Pod that does not
// want it near; the counts behind them follow the Pods that come and go.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	var near, far, refusing []*framework.Tally
	first := false
	if pod.Terms != nil {
		near, first = nearOf(pod, cluster)
		for _, t := range pod.Terms.Far {
			far = append(far, cluster.Index.Matching(false, t))
		}
	}
	if cluster.Index.Grouped() {
		cluster.Index.Refusing(pod, func(t *framework.Tally) { refusing = append(refusing, t) })
	}
	if len(near)+len(far)+len(refusing) == 0 {
		return nil, framework.Reason{}
	}
	// Pods that are tried on a node for a preemption change the counts while the check is in use.
	return func(n *framework.Node) []framework.Reason {
		alone := first && !slices.ContainsFunc(near, func(t *framework.Tally) bool { return !t.Empty() })
		for _, t := range near {
			if count, ok := t.Near(n); !ok || count == 0 && !alone {
				return []framework.Reason{{Verdict: framework.Wrong, Message: noAffinity}}
			}
		}
		for _, t := range far {
			if count, _ := t.Near(n); count > 0 {
				return []framework.Reason{{Verdict: framework.Busy, Message: noAntiAffinity}}
			}
		}
		for _, t := range refusing {
			if count, _ := t.Near(n); count > 0 {
				return []framework.Reason{{Verdict: framework.Busy, Message: existingRefuse}}
			}
		}
		return nil
	}, framework.Reason{}
}

// nearOf counts, for the topology of each required term, the Pods that all of the terms match. A Pod that its own terms
// match may be the first of its group.
func nearOf(pod *framework.Pod, cluster *framework.Cluster) (near []*framework.Tally, first bool) {
	terms := pod.Terms.Near
	first = len(terms) > 0
	for i := range terms {
		all := append([]framework.Term{terms[i]}, terms[:i]...)
		near = append(near, cluster.Index.Matching(false, append(all, terms[i+1:]...)...))
		first = first && terms[i].Matches(pod.Pod, cluster.Namespaces)
	}
	return near, first
}

// Helps implements framework.Waker: a Pod came, or changed its labels, that the Pod wants near; one went, or changed them, that
// kept it away, or was the last of the Pod's own group; a node came or changed its labels; a namespace that may be selected changed its labels.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	switch {
	case e.OldNode != nil || e.NewNode != nil:
		return e.NodeLabelsChanged()
	case e.NewNamespace != nil:
		return pod.Terms != nil && slices.ContainsFunc(slices.Concat(pod.Terms.Near, pod.Terms.Far), func(t framework.Term) bool { return t.SelectsNamespaces() })
	case e.PodLeft():
		return keptAway(pod, e.OldPod) || firstAgain(pod, e.OldPod)
	case e.OldPod == nil:
		return e.NewPod != nil && wanted(pod, e.NewPod)
	case e.NewPod == nil || maps.Equal(e.OldPod.Labels, e.NewPod.Labels):
		return false
	}
	return wanted(pod, e.OldPod) != wanted(pod, e.NewPod) && (wanted(pod, e.NewPod) || firstAgain(pod, e.OldPod)) ||
		unwanted(pod, e.OldPod) && !unwanted(pod, e.NewPod)
}

// firstAgain says whether the Pod, which wants those near that are like itself, may be the first of them now that other is none: the
// first goes anywhere.
func firstAgain(pod *framework.Pod, other *corev1.Pod) bool {
	return wanted(pod, other) && wanted(pod, pod.Pod)
}

// wanted says whether other is one that the Pod wants near.
func wanted(pod *framework.Pod, other *corev1.Pod) bool {
	return pod.Terms != nil && len(pod.Terms.Near) > 0 &&
		!slices.ContainsFunc(pod.Terms.Near, func(t framework.Term) bool { return !t.MayMatch(other) })
}

// unwanted says whether other is one that the Pod does not want near.
func unwanted(pod *framework.Pod, other *corev1.Pod) bool {
	return pod.Terms != nil && slices.ContainsFunc(pod.Terms.Far, func(t framework.Term) bool { return t.MayMatch(other) })
}

// keptAway says whether one of the two did not want the other near.
func keptAway(pod *framework.Pod, other *corev1.Pod) bool {
	return unwanted(pod, other) ||
		slices.ContainsFunc(framework.FarTerms(other), func(t framework.Term) bool { return t.MayMatch(pod.Pod) })
}

// PrepareScore implements framework.Score: the weights of the Pod's preferred terms that a node's domain satisfies, and of
// those that Pods in the domain have and that the Pod would satisfy, for each Pod; anti-affinity counts against.
func (Plugin) PrepareScore(pod *framework.Pod, cluster *framework.Cluster, _ []*framework.Node) func(*framework.Node) int64 {
	type weighted struct {
		*framework.Tally
		weight int64
	}
	var all []weighted
	collect := func(t *framework.Tally, weight int64) {
		if !t.Empty() {
			all = append(all, weighted{t, weight})
		}
	}
	if pod.Terms != nil {
		for _, t := range pod.Terms.Preferred {
			collect(cluster.Index.Matching(false, t.Term), t.Weight)
		}
	}
	if cluster.Index.Grouped() {
		cluster.Index.Attracting(pod, collect)
	}
	if len(all) == 0 {
		return nil
	}
	return func(n *framework.Node) int64 {
		var sum int64
		for _, w := range all {
			count, _ := w.Near(n)
			sum += w.weight * int64(count)
		}
		return sum
	}
}

// Weight implements framework.Score.
func (Plugin) Weight() int64 { return 2 }

// Normalize implements framework.Normalizer: the lowest sum, which may be negative, gets nothing, the highest all.
func (Plugin) Normalize(raw []int64) {
	lowest, highest := slices.Min(raw), slices.Max(raw)
	for i, v := range raw {
		if raw[i] = 0; highest > lowest {
			raw[i] = int64(framework.MaxScore * (float64(v-lowest) / float64(highest-lowest)))
		}
	}
}
