// Package podaffinity puts Pods near or far from others: required Pod affinity and anti-affinity.
package podaffinity

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

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
func (Plugin) Name() string { return "InterPodAffinity" }

const (
	noAffinity     = "node(s) didn't match pod affinity rules"
	noAntiAffinity = "node(s) didn't match pod anti-affinity rules"
	existingRefuse = "node(s) didn't satisfy existing pods anti-affinity rules"
)

// term is a PodAffinityTerm ready to match: topologyKey's domain must (not) hold a Pod that matches.
type term struct {
	topologyKey string
	selector    labels.Selector
	namespaces  []string
	// nsSelector selects further namespaces; nil selects none.
	nsSelector labels.Selector
}

// newTerm prepares t as written in a Pod of the given namespace and labels. A selector that does not parse, which
// validation refuses, selects nothing.
func newTerm(t *corev1.PodAffinityTerm, owner *corev1.Pod) term {
	sel, err := metav1.LabelSelectorAsSelector(withMatchKeys(t, owner.Labels))
	if err != nil {
		sel = labels.Nothing()
	}
	out := term{topologyKey: t.TopologyKey, selector: sel, namespaces: t.Namespaces}
	if t.NamespaceSelector != nil {
		if out.nsSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
			out.nsSelector = nil
		}
	} else if len(t.Namespaces) == 0 {
		out.namespaces = []string{owner.Namespace}
	}
	return out
}

// withMatchKeys returns the label selector with matchLabelKeys and mismatchLabelKeys merged in (KEP-3633).
func withMatchKeys(t *corev1.PodAffinityTerm, owner map[string]string) *metav1.LabelSelector {
	if t.LabelSelector == nil || len(t.MatchLabelKeys)+len(t.MismatchLabelKeys) == 0 {
		return t.LabelSelector
	}
	sel := t.LabelSelector.DeepCopy()
	add := func(keys []string, op metav1.LabelSelectorOperator) {
		for _, k := range keys {
			if v, ok := owner[k]; ok {
				sel.MatchExpressions = append(sel.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	add(t.MatchLabelKeys, metav1.LabelSelectorOpIn)
	add(t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	return sel
}

func (t term) matches(p *corev1.Pod, namespaces func(string) map[string]string) bool {
	if !slices.Contains(t.namespaces, p.Namespace) &&
		(t.nsSelector == nil || !t.nsSelector.Matches(labels.Set(namespaces(p.Namespace)))) {
		return false
	}
	return t.selector.Matches(labels.Set(p.Labels))
}

func terms(list []corev1.PodAffinityTerm, owner *corev1.Pod) []term {
	out := make([]term, len(list))
	for i := range list {
		out[i] = newTerm(&list[i], owner)
	}
	return out
}

func affinityOf(p *corev1.Pod) (affinity, anti []corev1.PodAffinityTerm) {
	if p.Spec.Affinity == nil {
		return nil, nil
	}
	if a := p.Spec.Affinity.PodAffinity; a != nil {
		affinity = a.RequiredDuringSchedulingIgnoredDuringExecution
	}
	if a := p.Spec.Affinity.PodAntiAffinity; a != nil {
		anti = a.RequiredDuringSchedulingIgnoredDuringExecution
	}
	return affinity, anti
}

// domain is a topology key and one of its values.
type domain struct{ key, value string }

// domainsOf returns, for each term, the domains that hold a Pod that matches it.
func domainsOf(ts []term, cluster *framework.Cluster) []map[domain]bool {
	out := make([]map[domain]bool, len(ts))
	for i, t := range ts {
		out[i] = map[domain]bool{}
		for _, n := range cluster.Nodes {
			value, ok := n.Node.Labels[t.topologyKey]
			d := domain{t.topologyKey, value}
			if !ok || out[i][d] {
				continue
			}
			for _, p := range n.Pods {
				if t.matches(p.Pod, cluster.Namespaces) {
					out[i][d] = true
					break
				}
			}
		}
	}
	return out
}

// refused returns the domains in which a Pod that is there already does not want pod.
func refused(pod *framework.Pod, cluster *framework.Cluster) map[domain]bool {
	out := map[domain]bool{}
	for n := range cluster.Refusing {
		for _, p := range n.Pods {
			_, anti := affinityOf(p.Pod)
			for i := range anti {
				t := newTerm(&anti[i], p.Pod)
				if value, ok := n.Node.Labels[t.topologyKey]; ok && t.matches(pod.Pod, cluster.Namespaces) {
					out[domain{t.topologyKey, value}] = true
				}
			}
		}
	}
	return out
}

// Prepare implements framework.Filter. It costs a look at every Pod for each term that the Pod has, and nothing where
// neither it nor any Pod that runs has one.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	affinity, anti := affinityOf(pod.Pod)
	if len(affinity)+len(anti)+len(cluster.Refusing) == 0 {
		return nil, framework.Reason{}
	}
	near, far := terms(affinity, pod.Pod), terms(anti, pod.Pod)
	nearDomains, farDomains, refusing := domainsOf(near, cluster), domainsOf(far, cluster), refused(pod, cluster)
	// The first Pod of a group that wants to be together may go anywhere.
	first := len(near) > 0
	for i, t := range near {
		first = first && len(nearDomains[i]) == 0 && t.matches(pod.Pod, cluster.Namespaces)
	}
	return func(n *framework.Node) []framework.Reason {
		for i, t := range near {
			value, ok := n.Node.Labels[t.topologyKey]
			if !ok || !first && !nearDomains[i][domain{t.topologyKey, value}] {
				return []framework.Reason{{Verdict: framework.Wrong, Message: noAffinity}}
			}
		}
		for i, t := range far {
			if value, ok := n.Node.Labels[t.topologyKey]; ok && farDomains[i][domain{t.topologyKey, value}] {
				return []framework.Reason{{Verdict: framework.Busy, Message: noAntiAffinity}}
			}
		}
		for d := range refusing {
			if n.Node.Labels[d.key] == d.value {
				return []framework.Reason{{Verdict: framework.Busy, Message: existingRefuse}}
			}
		}
		return nil
	}, framework.Reason{}
}

// Helps implements framework.Waker: a Pod came, went or changed its labels; a node came or changed its labels.
func (Plugin) Helps(_ *framework.Pod, e framework.Event) bool {
	if e.OldNode != nil || e.NewNode != nil {
		return e.NodeAppearedOr(func(old, new *corev1.Node) bool { return !maps.Equal(old.Labels, new.Labels) })
	}
	return e.OldPod == nil || e.PodLeft() || e.NewPod != nil && !maps.Equal(e.OldPod.Labels, e.NewPod.Labels)
}

// PrepareScore implements framework.Score: the weights of the Pod's preferred terms that a node's domain satisfies, less
// those of the preferred anti-affinity.
func (Plugin) PrepareScore(pod *framework.Pod, cluster *framework.Cluster) func(*framework.Node) int64 {
	weights := map[domain]int64{}
	collect := func(list []corev1.WeightedPodAffinityTerm, sign int64) {
		for i := range list {
			t := newTerm(&list[i].PodAffinityTerm, pod.Pod)
			for _, n := range cluster.Nodes {
				value, ok := n.Node.Labels[t.topologyKey]
				if !ok {
					continue
				}
				for _, p := range n.Pods {
					if t.matches(p.Pod, cluster.Namespaces) {
						weights[domain{t.topologyKey, value}] += sign * int64(list[i].Weight)
					}
				}
			}
		}
	}
	if a := pod.Spec.Affinity; a != nil {
		if a.PodAffinity != nil {
			collect(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1)
		}
		if a.PodAntiAffinity != nil {
			collect(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1)
		}
	}
	if len(weights) == 0 {
		return nil
	}
	return func(n *framework.Node) int64 {
		var sum int64
		for d, w := range weights {
			if v, ok := n.Node.Labels[d.key]; ok && v == d.value {
				sum += w
			}
		}
		return sum
	}
}

// Weight implements framework.Score.
func (Plugin) Weight() int64 { return 2 }

// Scaling implements framework.Score.
func (Plugin) Scaling() framework.Scaling { return framework.Relative }
