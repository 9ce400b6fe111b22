package framework

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
)

// pick returns one of the values.
func pick[T any](r *rand.Rand, of ...T) T { return of[r.IntN(len(of))] }

// someTerms are alternatives of every operator, some of them of no meaning.
func someTerms(r *rand.Rand) []corev1.NodeSelectorTerm {
	terms := make([]corev1.NodeSelectorTerm, r.IntN(3))
	for i := range terms {
		for range r.IntN(3) {
			terms[i].MatchExpressions = append(terms[i].MatchExpressions, corev1.NodeSelectorRequirement{
				Key: pick(r, "a", "b", "c"), Values: pick(r, nil, []string{""}, []string{"1"}, []string{"1", "2"}),
				Operator: pick(r, corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn, corev1.NodeSelectorOpExists, corev1.NodeSelectorOpDoesNotExist, corev1.NodeSelectorOpGt, "none"),
			})
		}
		if r.IntN(4) == 0 {
			terms[i].MatchFields = []corev1.NodeSelectorRequirement{{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{pick(r, "n", "m")}}}
		}
	}
	return terms
}

// nodesOf makes nodes with labels.
func nodesOf(x *Index, labels ...map[string]string) (nodes []*Node) {
	for _, l := range labels {
		n := NewNode(x)
		n.Set(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: l}})
		nodes = append(nodes, n)
	}
	return nodes
}

// Whatever Pods select and however nodes change, what the index says is what each node's labels say: also of more pairs than there
// are marks for, in turns or at once.
func TestSelectedIsSelection(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	x := NewIndex(func(string) map[string]string { return nil })
	some := func(most, values int) map[string]string {
		l := map[string]string{}
		for range r.IntN(most + 1) {
			l[fmt.Sprint("k", r.IntN(20))] = fmt.Sprint(r.IntN(values))
		}
		return l
	}
	nodes := nodesOf(x, some(20, 3), some(20, 3), some(20, 3), some(20, 3), nil)
	matched := map[bool]int{}
	for range 5000 {
		n := nodes[r.IntN(len(nodes))]
		switch r.IntN(8) {
		case 0:
			n.Set(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: some(20, 3)}})
		case 1:
			n.Set(nil)
			n.Set(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: some(20, 3)}})
		}
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: some(2, 6)}}
		switch r.IntN(20) {
		case 0:
			for i := range maxMarks + 1 {
				p.Spec.NodeSelector[fmt.Sprint("k", i)] = "0"
			}
		case 1, 2, 3:
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: someTerms(r)}}}
		}
		selected, selection := x.Selected(p), SelectionOf(p)
		if selected.Any() != selection.Any() {
			t.Fatalf("%v: any node will do: %t, want %t", p.Spec.NodeSelector, selected.Any(), selection.Any())
		}
		for _, n := range nodes {
			if got, want := selected.Has(n), selection.Matches(n.Node); got != want {
				t.Fatalf("a Pod that selects %v, a node with %v: %t, want %t", p.Spec.NodeSelector, n.Labels, got, want)
			}
			matched[selected.Has(n)]++
		}
	}
	if matched[true] < 500 || matched[false] < 500 {
		t.Errorf("too few of both were compared: %v", matched)
	}
	if len(x.marks) > maxMarks {
		t.Errorf("%d marks are kept", len(x.marks))
	}
}

// Whatever Pods select, the nodes that match are those which Kubernetes' library says.
func TestSelectionIsRequiredNodeAffinity(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 2))
	someLabels := func() map[string]string {
		l := map[string]string{}
		for range r.IntN(3) {
			l[pick(r, "a", "b", "c")] = pick(r, "", "1", "2")
		}
		return l
	}
	matched := map[bool]int{}
	for range 5000 {
		p := &corev1.Pod{Spec: corev1.PodSpec{NodeSelector: someLabels()}}
		switch r.IntN(4) {
		case 0:
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{}}
		case 1, 2:
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{
				RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: someTerms(r)}}}
		}
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: pick(r, "n", "m"), Labels: someLabels()}}
		ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(n)
		want := ok && err == nil
		s := SelectionOf(p)
		if got := s.Matches(n); got != want || s.Any() && !want {
			t.Fatalf("a Pod that selects %v and %+v, a node with %v: %t, want %t", p.Spec.NodeSelector, p.Spec.Affinity, n.Labels, got, want)
		}
		matched[want]++
	}
	if matched[true] < 500 || matched[false] < 500 {
		t.Errorf("too few of both were compared: %v", matched)
	}
}
