package framework

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// Selection says by their labels and names which nodes a Pod may run on: its nodeSelector and the node affinity that it requires.
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
		if !pair.in(n.Labels) {
			return false
		}
	}
	if s.terms == nil {
		return true
	}
	ok, err := s.terms.Match(n)
	return err == nil && ok
}

// Selected is a Selection that is asked of many nodes. A search asks hundreds for each Pod, and their labels are seldom in the
// processor's cache: each node has a mark instead for each pair of a label and its value that nodeSelectors ask for. It is good
// for one cycle.
type Selected struct {
	marks uint64
	// rest is what there are no marks for.
	rest Selection
}

// maxMarks is how many pairs there are marks for, one bit each.
const maxMarks = 64

// Selected is the Pod's. For a pair that is new it costs a look at each node, as a search does for a label that few nodes have;
// those that many have are few.
func (x *Index) Selected(p *corev1.Pod) Selected {
	s := Selected{rest: SelectionOf(p)}
	if len(s.rest.pairs) > maxMarks {
		return s
	}
	for _, pair := range s.rest.pairs {
		s.marks |= x.marks[pair]
	}
	for _, pair := range s.rest.pairs {
		if x.marks[pair] != 0 {
			continue
		}
		if len(x.marks) == maxMarks {
			x.forgetMarks()
			return x.Selected(p)
		}
		s.marks |= x.mark(pair)
	}
	s.rest.pairs = nil
	return s
}

// Any says whether all nodes match.
func (s Selected) Any() bool { return s.marks == 0 && s.rest.Any() }

// Has says whether the node, which must be known, is one of them.
func (s Selected) Has(n *Node) bool {
	return n.marks&s.marks == s.marks && (s.rest.Any() || s.rest.Matches(n.Node))
}

// mark gives the nodes that have the pair a mark, and those that will.
func (x *Index) mark(pair labelPair) uint64 {
	bit := uint64(1) << len(x.marks)
	x.marks[pair] = bit
	for n := range x.nodes {
		if n.Node != nil && pair.in(n.Node.Labels) {
			n.marks |= bit
		}
	}
	return bit
}

// forgetMarks makes room for others.
func (x *Index) forgetMarks() {
	clear(x.marks)
	for n := range x.nodes {
		n.marks = 0
	}
}

// remark follows a change of the node's labels.
func (x *Index) remark(n *Node, now map[string]string) {
	n.marks = 0
	for pair, bit := range x.marks {
		if pair.in(now) {
			n.marks |= bit
		}
	}
}

// in says whether the labels have the pair.
func (p labelPair) in(labels map[string]string) bool {
	value, ok := labels[p.key]
	return ok && value == p.value
}
