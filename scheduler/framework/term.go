package framework

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
)

// Term says which Pods are meant, and by which label of their nodes they are near each other: a PodAffinityTerm, or a
// topology spread constraint, ready to match.
type Term struct {
	// Key is the topology's label.
	Key      string
	selector labels.Selector
	// namespaces are sorted; nsSelector selects further ones, nil none.
	namespaces []string
	nsSelector labels.Selector
	// id is the same for terms that mean the same.
	id string
	// pairs has one label of which a Pod that matches must have one of the values; nil says that any Pod may match.
	pairs []labelPair
}

type labelPair struct{ key, value string }

// WeightedTerm is a term that is preferred, or, with a negative weight, avoided.
type WeightedTerm struct {
	Term
	Weight int64
}

// Terms are the affinity and anti-affinity of a Pod.
type Terms struct {
	Near, Far []Term
	Preferred []WeightedTerm
}

// NewTerm makes a term. A selector that does not parse, which validation refuses, selects nothing.
func NewTerm(key string, selector *metav1.LabelSelector, namespaces []string, nsSelector *metav1.LabelSelector) Term {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		parsed = labels.Nothing()
	}
	return TermOf(key, parsed, namespaces, nsSelector)
}

// TermOf makes a term of a selector that is parsed.
func TermOf(key string, selector labels.Selector, namespaces []string, nsSelector *metav1.LabelSelector) Term {
	t := Term{Key: key, selector: selector, namespaces: slices.Sorted(slices.Values(namespaces))}
	var err error
	var id strings.Builder
	id.WriteString(key)
	for _, ns := range t.namespaces {
		id.WriteString("\x00" + ns)
	}
	if nsSelector != nil {
		if t.nsSelector, err = metav1.LabelSelectorAsSelector(nsSelector); err != nil {
			t.nsSelector = labels.Nothing()
		}
		id.WriteString("\x01" + t.nsSelector.String())
	}
	requirements, selectable := t.selector.Requirements()
	if !selectable {
		id.WriteString("\x03") // nothing; the empty selector, which prints alike, is everything
	}
	id.WriteString("\x02" + t.selector.String())
	t.id = id.String()
	for _, r := range requirements {
		if op := r.Operator(); op == selection.In || op == selection.Equals || op == selection.DoubleEquals {
			for _, value := range r.ValuesUnsorted() {
				t.pairs = append(t.pairs, labelPair{r.Key(), value})
			}
			break
		}
	}
	return t
}

// Matches says whether the Pod is meant; namespaces returns the labels of a namespace.
func (t *Term) Matches(p *corev1.Pod, namespaces func(string) map[string]string) bool {
	if _, found := slices.BinarySearch(t.namespaces, p.Namespace); !found &&
		(t.nsSelector == nil || !t.nsSelector.Matches(labels.Set(namespaces(p.Namespace)))) {
		return false
	}
	return t.selector.Matches(labels.Set(p.Labels))
}

// MayMatch is Matches where the labels of namespaces are not at hand: a Pod of one that they might select is meant.
func (t *Term) MayMatch(p *corev1.Pod) bool {
	_, found := slices.BinarySearch(t.namespaces, p.Namespace)
	return (found || t.nsSelector != nil) && t.selector.Matches(labels.Set(p.Labels))
}

// SelectsNamespaces says whether the labels of namespaces matter.
func (t *Term) SelectsNamespaces() bool { return t.nsSelector != nil }

// termsOf prepares the Pod's affinity; nil where it has none.
func termsOf(p *corev1.Pod) *Terms {
	a := p.Spec.Affinity
	if a == nil || a.PodAffinity == nil && a.PodAntiAffinity == nil {
		return nil
	}
	out := &Terms{}
	if a.PodAffinity != nil {
		out.Near = affinityTerms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, p)
		out.prefer(a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, 1, p)
	}
	if a.PodAntiAffinity != nil {
		out.Far = affinityTerms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, p)
		out.prefer(a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, -1, p)
	}
	return out
}

// FarTerms are the Pods that p, which is bound to a node, does not want near.
func FarTerms(p *corev1.Pod) []Term {
	a := p.Spec.Affinity
	if a == nil || a.PodAntiAffinity == nil {
		return nil
	}
	return affinityTerms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, p)
}

// spreadTermsOf prepares what the Pod's topology spread constraints count.
func spreadTermsOf(p *corev1.Pod) []Term {
	if len(p.Spec.TopologySpreadConstraints) == 0 {
		return nil
	}
	out := make([]Term, len(p.Spec.TopologySpreadConstraints))
	for i := range p.Spec.TopologySpreadConstraints {
		c := &p.Spec.TopologySpreadConstraints[i]
		selector := WithKeys(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn, p.Labels)
		out[i] = NewTerm(c.TopologyKey, selector, []string{p.Namespace}, nil)
	}
	return out
}

func (t *Terms) prefer(list []corev1.WeightedPodAffinityTerm, sign int64, owner *corev1.Pod) {
	for i := range list {
		t.Preferred = append(t.Preferred, WeightedTerm{affinityTerm(&list[i].PodAffinityTerm, owner), sign * int64(list[i].Weight)})
	}
}

func affinityTerms(list []corev1.PodAffinityTerm, owner *corev1.Pod) []Term {
	out := make([]Term, len(list))
	for i := range list {
		out[i] = affinityTerm(&list[i], owner)
	}
	return out
}

// affinityTerm prepares t as written in owner: without namespaces it means the owner's.
func affinityTerm(t *corev1.PodAffinityTerm, owner *corev1.Pod) Term {
	namespaces := t.Namespaces
	if len(namespaces) == 0 && t.NamespaceSelector == nil {
		namespaces = []string{owner.Namespace}
	}
	selector := WithKeys(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn, owner.Labels)
	selector = WithKeys(selector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn, owner.Labels)
	return NewTerm(t.TopologyKey, selector, namespaces, t.NamespaceSelector)
}

// WithKeys returns the selector with the owner's own values of keys merged in (matchLabelKeys, mismatchLabelKeys).
func WithKeys(selector *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator, own map[string]string) *metav1.LabelSelector {
	if selector == nil || len(keys) == 0 {
		return selector
	}
	selector = selector.DeepCopy()
	for _, k := range keys {
		if v, ok := own[k]; ok {
			selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
		}
	}
	return selector
}
