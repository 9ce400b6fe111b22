package plugins_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins"
	"github.com/peapod/peapod/scheduler/plugins/noderesources"
	"github.com/peapod/peapod/scheduler/plugins/podaffinity"
	"github.com/peapod/peapod/scheduler/plugins/tainttoleration"
)

func newCluster(nodes ...*corev1.Node) *cluster.Cluster {
	c := cluster.New(func(string) map[string]string { return nil })
	for _, n := range nodes {
		c.SetNode(n)
	}
	return c
}

func node(name, cpu, memory string) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}, Status: corev1.NodeStatus{Allocatable: list(cpu, memory)}}
}

func list(cpu, memory string) corev1.ResourceList {
	out := corev1.ResourceList{}
	for name, amount := range map[corev1.ResourceName]string{corev1.ResourceCPU: cpu, corev1.ResourceMemory: memory} {
		if amount != "" {
			out[name] = resource.MustParse(amount)
		}
	}
	return out
}

// pod has a container for each pair of requests, of cpu and memory.
func pod(name string, requests ...string) *corev1.Pod {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)}}
	for i := 0; i < len(requests); i += 2 {
		p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Resources: corev1.ResourceRequirements{Requests: list(requests[i], requests[i+1])}})
	}
	return p
}

// scores are what the rule gives the nodes of the cluster, in their order; nil where it makes no difference.
func scores(c *cluster.Cluster, rule framework.Score, p *corev1.Pod) []int64 {
	view := c.View()
	of := rule.PrepareScore(framework.NewPod(p), view, view.Nodes)
	if of == nil {
		return nil
	}
	raw := make([]int64, len(view.Nodes))
	for i, n := range view.Nodes {
		raw[i] = of(n)
	}
	if n, ok := rule.(framework.Normalizer); ok {
		n.Normalize(raw)
	}
	return raw
}

// The weights are those of Kubernetes' default profile.
func TestWeights(t *testing.T) {
	want := map[string]int64{"TaintToleration": 3, "NodeAffinity": 2, "PodTopologySpread": 2, "InterPodAffinity": 2,
		"NodeResourcesFit": 1, "NodeResourcesBalancedAllocation": 1, "ImageLocality": 1, "DynamicResources": 2}
	for _, p := range plugins.All() {
		if s, ok := p.(framework.Score); ok {
			if s.Weight() != want[p.Name()] {
				t.Errorf("%s weighs %d, want %d", p.Name(), s.Weight(), want[p.Name()])
			}
			delete(want, p.Name())
		}
	}
	if len(want) > 0 {
		t.Errorf("no scores by %v", want)
	}
}

func TestResourceScores(t *testing.T) {
	const gi = "1Gi"
	for name, test := range map[string]struct {
		there, p        *corev1.Pod
		least, balanced []int64
	}{
		"alike": {nil, pod("p", "1", gi), []int64{(75 + 75) / 2}, []int64{75}},
		// cpu 1/4, memory 2/4: 100 without, 87 with.
		"more memory than cpu": {nil, pod("p", "1", "2Gi"), []int64{(75 + 50) / 2}, []int64{50 + (50+87-100)/2}},
		// 3/4 and 1/4 are made 3/4 and 3/4: 75 without, 100 with.
		"evened out": {pod("there", "3", gi), pod("p", "", "2Gi"), []int64{(22 + 25) / 2}, []int64{50 + (50+100-75)/2}},
		// The second container counts 100m and 200Mi; what it does not request does not count for balance.
		"a container without requests": {nil, pod("p", "1", gi, "", ""), []int64{(72 + 70) / 2}, []int64{75}},
		// 100m of 4, 200Mi of 4Gi.
		"no requests": {nil, pod("p", "", ""), []int64{(97 + 95) / 2}, nil},
	} {
		c := newCluster(node("n", "4", "4Gi"))
		if test.there != nil {
			c.SetPod(framework.NewPod(test.there), "n")
		}
		if got := scores(c, noderesources.Fit{}, test.p); !slices.Equal(got, test.least) {
			t.Errorf("%s: least allocated %v, want %v", name, got, test.least)
		}
		if got := scores(c, noderesources.Balanced{}, test.p); !slices.Equal(got, test.balanced) {
			t.Errorf("%s: balanced %v, want %v", name, got, test.balanced)
		}
	}
	if got := scores(newCluster(node("n", "4", "")), noderesources.Fit{}, pod("p", "1", gi)); !slices.Equal(got, []int64{75}) {
		t.Errorf("a node that says nothing of memory: %v, want 75", got)
	}
}

func TestImageScore(t *testing.T) {
	image := func(n *corev1.Node, size int64) *corev1.Node {
		n.Status.Images = []corev1.ContainerImage{{Names: []string{"registry/app:latest"}, SizeBytes: size}}
		return n
	}
	c := newCluster(image(node("a", "4", "4Gi"), 600<<20), image(node("b", "4", "4Gi"), 600<<20), node("c", "4", "4Gi"))
	p := pod("p", "", "")
	p.Spec.Containers[0].Image = "registry/app"
	// Two nodes of three have it: 400 MiB of 23 to 1000.
	if got, want := scores(c, noderesources.ImageLocality{}, p), []int64{100 * (400 - 23) / (1000 - 23), 100 * (400 - 23) / (1000 - 23), 0}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// The lowest sum of weights gets nothing and the highest all, whatever their signs.
func TestAffinityScore(t *testing.T) {
	c := newCluster(node("near", "4", "4Gi"), node("far", "4", "4Gi"), node("neither", "4", "4Gi"))
	for name, on := range map[string]string{"friend": "near", "foe": "far"} {
		p := pod(name)
		p.Labels = map[string]string{"is": name}
		c.SetPod(framework.NewPod(p), on)
	}
	term := func(weight int32, is string) corev1.WeightedPodAffinityTerm {
		return corev1.WeightedPodAffinityTerm{Weight: weight, PodAffinityTerm: corev1.PodAffinityTerm{
			TopologyKey: corev1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"is": is}}}}
	}
	p := pod("p")
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{term(30, "friend")}},
		PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{term(10, "foe")}}}
	if got, want := scores(c, podaffinity.Plugin{}, p), []int64{100, 0, 25}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	raw := []int64{5, 7, 6}
	podaffinity.Plugin{}.Normalize(raw)
	if !slices.Equal(raw, []int64{0, 100, 50}) {
		t.Errorf("5, 7, 6 became %v", raw)
	}
}

func TestTaintScore(t *testing.T) {
	tainted := func(name string, keys ...string) *corev1.Node {
		n := node(name, "4", "4Gi")
		for _, key := range keys {
			n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffectPreferNoSchedule})
		}
		return n
	}
	c := newCluster(tainted("none"), tainted("one", "a"), tainted("two", "a", "b"), tainted("tolerated", "ok"))
	p := pod("p")
	p.Spec.Tolerations = []corev1.Toleration{{Key: "ok", Operator: corev1.TolerationOpExists}}
	if got, want := scores(c, tainttoleration.Plugin{}, p), []int64{100, 50, 0, 100}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}
