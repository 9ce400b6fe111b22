package cluster

import (
	"fmt"
	"math/rand/v2"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/framework"
)

// world is a cluster that changes at random.
type world struct {
	*rand.Rand
	*Cluster
	namespaces map[string]map[string]string
	nodes      map[string]*corev1.Node
}

var keys = []string{corev1.LabelTopologyZone, corev1.LabelHostname, "rack"}

func (w *world) node() *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("n", w.IntN(8)), Labels: map[string]string{}}}
	for _, k := range keys {
		if w.IntN(5) > 0 {
			n.Labels[k] = fmt.Sprint(w.IntN(3))
		}
	}
	if w.IntN(2) == 0 {
		n.Status.Images = []corev1.ContainerImage{{Names: []string{fmt.Sprint("image-", w.IntN(3))}, SizeBytes: 1}}
	}
	return n
}

func (w *world) selector() *metav1.LabelSelector {
	switch w.IntN(5) {
	case 0:
		return nil
	case 1:
		return &metav1.LabelSelector{}
	case 2:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: []string{"0", "2"}}}}
	case 3:
		return &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"1"}}}}
	}
	return &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(w.IntN(3))}}
}

func (w *world) term() corev1.PodAffinityTerm {
	t := corev1.PodAffinityTerm{TopologyKey: keys[w.IntN(len(keys))], LabelSelector: w.selector()}
	switch w.IntN(3) {
	case 0:
		t.Namespaces = []string{"b", "a"}
	case 1:
		t.NamespaceSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"team": "1"}}
	}
	return t
}

func (w *world) pod() *framework.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(fmt.Sprint(w.IntN(30))), Namespace: string(rune('a' + w.IntN(3))), Labels: map[string]string{}}}
	if w.IntN(4) > 0 {
		p.Labels["app"] = fmt.Sprint(w.IntN(3))
	}
	if w.IntN(5) == 0 {
		p.DeletionTimestamp = &metav1.Time{}
	}
	p.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{}, PodAffinity: &corev1.PodAffinity{}}
	for range w.IntN(3) {
		p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = append(p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, w.term())
	}
	for range w.IntN(3) {
		p.Spec.Affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = append(p.Spec.Affinity.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution,
			corev1.WeightedPodAffinityTerm{Weight: int32(1 + w.IntN(3)), PodAffinityTerm: w.term()})
	}
	return framework.NewPod(p)
}

// step changes something.
func (w *world) step() {
	switch w.IntN(10) {
	case 0, 1:
		n := w.node()
		w.SetNode(n)
		w.nodes[n.Name] = n
	case 2:
		name := fmt.Sprint("n", w.IntN(8))
		w.RemoveNode(name)
		delete(w.nodes, name)
	case 3, 4:
		w.RemovePod(types.UID(fmt.Sprint(w.IntN(30))))
	case 5:
		w.namespaces[string(rune('a'+w.IntN(3)))] = map[string]string{"team": fmt.Sprint(w.IntN(2))}
		w.View().Index.NamespaceChanged()
	default:
		w.SetPod(w.pod(), fmt.Sprint("n", w.IntN(8)))
	}
}

// count is what the index must say, found by looking at every Pod of every known node.
func (w *world) count(key string, of func(*framework.Pod) int) map[string]int {
	out := map[string]int{}
	for _, n := range w.View().Nodes {
		for _, p := range n.Pods {
			if value, ok := n.Node.Labels[key]; ok && of(p) != 0 {
				out[value] += of(p)
			}
		}
	}
	return out
}

func check(t *testing.T, w *world, seed uint64, step int) {
	t.Helper()
	view := w.View()
	spec := w.term()
	for _, alive := range []bool{false, true} {
		term := framework.NewTerm(spec.TopologyKey, spec.LabelSelector, append([]string{"c"}, spec.Namespaces...), spec.NamespaceSelector)
		tally := view.Index.Matching(alive, term)
		want := w.count(term.Key, func(p *framework.Pod) int {
			if term.Matches(p.Pod, view.Namespaces) && (!alive || p.DeletionTimestamp == nil) {
				return 1
			}
			return 0
		})
		domains, least, all := map[string]bool{}, -1, true
		for _, n := range view.Nodes {
			value, ok := n.Node.Labels[term.Key]
			if got, in := tally.Near(n); got != want[value] || in != ok {
				t.Fatalf("seed %d step %d: %d Pods near %s, want %d", seed, step, got, n.Node.Name, want[value])
			}
			if all = all && ok; ok {
				domains[value] = true
				if least < 0 || want[value] < least {
					least = want[value]
				}
			}
		}
		if got, n := view.Index.Least(tally); got != max(least, 0) || n != len(domains) {
			t.Fatalf("seed %d step %d: least %d of %d domains, want %d of %d", seed, step, got, n, least, len(domains))
		}
		if got := view.Index.AllHave(term.Key); got != all {
			t.Fatalf("seed %d step %d: all nodes have %s: %v, want %v", seed, step, term.Key, got, all)
		}
	}
	checkGroups(t, w, seed, step)
	for i := range 3 {
		want := 0
		for _, n := range w.nodes {
			for _, image := range n.Status.Images {
				if image.Names[0] == fmt.Sprint("image-", i) {
					want++
				}
			}
		}
		if got := view.Index.WithImage(fmt.Sprint("image-", i)); got != want {
			t.Fatalf("seed %d step %d: %d nodes have image-%d, want %d", seed, step, got, i, want)
		}
	}
}

// checkGroups compares what Pods that are there want of a newcomer.
func checkGroups(t *testing.T, w *world, seed uint64, step int) {
	t.Helper()
	view, p := w.View(), w.pod()
	for _, n := range view.Nodes {
		var refusals, attraction, wantRefusals, wantAttraction int
		view.Index.Refusing(p, func(tally *framework.Tally) {
			count, _ := tally.Near(n)
			refusals += count
		})
		view.Index.Attracting(p, func(tally *framework.Tally, weight int64) {
			count, _ := tally.Near(n)
			attraction += int(weight) * count
		})
		for _, other := range view.Nodes {
			near := func(term *framework.Term) int {
				a, ok := n.Node.Labels[term.Key]
				b, has := other.Node.Labels[term.Key]
				if ok && has && a == b && term.Matches(p.Pod, view.Namespaces) {
					return 1
				}
				return 0
			}
			for _, there := range other.Pods {
				for i := range there.Terms.Far {
					wantRefusals += near(&there.Terms.Far[i])
				}
				for i := range there.Terms.Preferred {
					wantAttraction += near(&there.Terms.Preferred[i].Term) * int(there.Terms.Preferred[i].Weight)
				}
			}
		}
		if refusals != wantRefusals || attraction != wantAttraction {
			t.Fatalf("seed %d step %d: %d refusals and attraction %d near %s, want %d and %d", seed, step, refusals, attraction, n.Node.Name, wantRefusals, wantAttraction)
		}
	}
}

// TestIndexFollows changes clusters at random and compares what the index says with what is there.
func TestIndexFollows(t *testing.T) {
	for seed := range uint64(20) {
		w := &world{Rand: rand.New(rand.NewPCG(seed, 1)), namespaces: map[string]map[string]string{}, nodes: map[string]*corev1.Node{}}
		w.Cluster = New(func(name string) map[string]string { return w.namespaces[name] })
		for step := range 300 {
			w.step()
			check(t, w, seed, step)
		}
		for name := range w.nodes {
			w.RemoveNode(name)
		}
		for i := range 30 {
			w.RemovePod(types.UID(fmt.Sprint(i)))
		}
		if len(w.Cluster.nodes) != 0 || w.View().Index.Grouped() {
			t.Errorf("seed %d: something is left: %d nodes, groups %v", seed, len(w.Cluster.nodes), w.View().Index.Grouped())
		}
	}
}

// TestQuestionsAreBounded: what was asked for longest ago is forgotten, with what it alone needed; the answers stay right.
func TestQuestionsAreBounded(t *testing.T) {
	c := New(func(string) map[string]string { return nil })
	c.SetNode(&corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n", Labels: map[string]string{"key-0": "here", "last": "here"}}})
	term := func(key string) framework.Term {
		return framework.NewTerm(key, &metav1.LabelSelector{}, []string{"a"}, nil)
	}
	index := c.View().Index
	for i := range 25_000 {
		index.Matching(false, term(fmt.Sprint("key-", i)))
	}
	c.SetPod(framework.NewPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "p", Namespace: "a"}}), "n")
	for _, key := range []string{"key-0", "key-24999", "last"} {
		count, in := index.Matching(false, term(key)).Near(c.View().Nodes[0])
		if want := key != "key-24999"; in != want || (count == 1) != want {
			t.Errorf("near by %s: %d, %v", key, count, in)
		}
	}
	if questions, topologies := index.Size(); questions > 10_001 || topologies > 10_001 {
		t.Errorf("%d questions and %d topologies are kept", questions, topologies)
	}
}
