package framework

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Selection says by their labels and names which nodes a Pod may run on: its nodeSelector and the node affinity that it requires. A
// search asks hundreds of nodes, so that pairs of labels are compared as they are, which takes a tenth of what a selector does.
type Selection struct {
	pairs []labelPair
	terms *nodeaffinity.LazyErrorNodeSelector
}

// SelectionOf is the Pod's. The zero Selection, of a Pod that does not care, matches all nodes.
func SelectionOf(p *corev1.Pod) Selection {
	var s Selection
	for key, value := range p.Spec.NodeSelector {
		s.pairs = append(s.pairs, labelPair{key, value})
	}
	if a := p.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		s.terms = nodeaffinity.NewLazyErrorNodeSelector(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution)
	}
	return s
}

// Any says whether all nodes match.
func (s Selection) Any() bool { return len(s.pairs) == 0 && s.terms == nil }

// Matches says whether the node is one of them. A term that cannot be parsed, which validation refuses, matches none.
func (s Selection) Matches(n *corev1.Node) bool {
	for _, pair := range s.pairs {
		if value, ok := n.Labels[pair.key]; !ok || value != pair.value {
			return false
		}
	}
	if s.terms == nil {
		return true
	}
	ok, err := s.terms.Match(n)
	return err == nil && ok
}
