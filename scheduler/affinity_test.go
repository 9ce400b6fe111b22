package scheduler

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins"
)

// zones is a cluster of nodes a1, a2 in zone a, b1 in zone b and stray in none.
func zones() *cluster.Cluster {
	c := cluster.New(func(string) map[string]string { return nil })
	for _, name := range []string{"a1", "a2", "b1", "stray"} {
		labels := map[string]string{corev1.LabelHostname: name}
		if name != "stray" {
			labels[corev1.LabelTopologyZone] = name[:1]
		}
		c.SetNode(node(name, labels))
	}
	return c
}

func labelled(name string, labels map[string]string) *corev1.Pod {
	p := pod(name, "")
	p.Labels = labels
	p.Spec.Affinity = &corev1.Affinity{PodAffinity: &corev1.PodAffinity{}, PodAntiAffinity: &corev1.PodAntiAffinity{}}
	return p
}

func byLabels(key string, labels map[string]string) corev1.PodAffinityTerm {
	return corev1.PodAffinityTerm{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: labels}}
}

func put(c *cluster.Cluster, p *corev1.Pod, node string) { c.SetPod(framework.NewPod(p), node) }

// fitting returns the nodes on which the Pod fits, by name.
func fitting(c *cluster.Cluster, p *corev1.Pod) string {
	var names []string
	for _, n := range c.View().Nodes {
		only := p.DeepCopy()
		only.Spec.NodeSelector = map[string]string{corev1.LabelHostname: n.Node.Name}
		// Spreading counts all nodes nonetheless.
		for i := range only.Spec.TopologySpreadConstraints {
			only.Spec.TopologySpreadConstraints[i].NodeAffinityPolicy = ptr.To(corev1.NodeInclusionPolicyIgnore)
		}
		if d := cycle.New(plugins.All()).Decide(framework.NewPod(only), c.View()); d.Node != nil {
			names = append(names, d.Node.Node.Name+" ")
		}
	}
	slices.Sort(names)
	return strings.Join(names, "")
}

func TestAffinityWantsOnePodThatAllTermsMatch(t *testing.T) {
	c := zones()
	p := labelled("p", map[string]string{"app": "x"})
	near := &p.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	*near = []corev1.PodAffinityTerm{byLabels(corev1.LabelTopologyZone, map[string]string{"app": "x"}), byLabels(corev1.LabelTopologyZone, map[string]string{"tier": "y"})}
	put(c, labelled("half", map[string]string{"app": "x"}), "a1")
	put(c, labelled("other-half", map[string]string{"tier": "y"}), "a2")
	if got := fitting(c, p); got != "" {
		t.Errorf("two Pods together are not one: fits on %s", got)
	}
	put(c, labelled("whole", map[string]string{"app": "x", "tier": "y"}), "b1")
	if got := fitting(c, p); got != "b1 " {
		t.Errorf("fits on %s", got)
	}
	*near = (*near)[:1]
	if got := fitting(c, p); got != "a1 a2 b1 " {
		t.Errorf("with one term it fits on %s", got)
	}
	first := labelled("first", map[string]string{"app": "new"})
	first.Spec.Affinity.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{byLabels(corev1.LabelTopologyZone, first.Labels)}
	if got := fitting(c, first); got != "a1 a2 b1 " {
		t.Errorf("the first of its group fits on %s", got)
	}
}

func TestAntiAffinityBothWays(t *testing.T) {
	c := zones()
	shy := labelled("shy", map[string]string{"app": "shy"})
	shy.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{byLabels(corev1.LabelTopologyZone, map[string]string{"app": "loud"})}
	loud := labelled("loud", map[string]string{"app": "loud"})
	put(c, shy, "a1")
	if got := fitting(c, loud); got != "b1 stray " {
		t.Errorf("loud fits on %s", got)
	}
	c.RemovePod(shy.UID)
	put(c, loud, "b1")
	if got := fitting(c, shy); got != "a1 a2 stray " {
		t.Errorf("shy fits on %s", got)
	}
}

// A Pod that prefers company attracts who fits, and one that prefers to be alone repels.
func TestPreferencesOfPodsThatRun(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Affinity, corev1.PodAffinityTerm)
		want   string
	}{
		"prefers": {func(a *corev1.Affinity, term corev1.PodAffinityTerm) {
			a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: term}}
		}, "a1"},
		"requires": {func(a *corev1.Affinity, term corev1.PodAffinityTerm) {
			a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution = []corev1.PodAffinityTerm{term}
		}, "a1"},
		"avoids": {func(a *corev1.Affinity, term corev1.PodAffinityTerm) {
			a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution = []corev1.WeightedPodAffinityTerm{{Weight: 100, PodAffinityTerm: term}}
		}, "b1"},
	} {
		k := cluster.New(func(string) map[string]string { return nil })
		k.SetNode(node("a1", map[string]string{corev1.LabelTopologyZone: "a"}))
		k.SetNode(node("b1", map[string]string{corev1.LabelTopologyZone: "b"}))
		there := labelled("there", nil)
		c.change(there.Spec.Affinity, byLabels(corev1.LabelTopologyZone, map[string]string{"app": "x"}))
		put(k, there, "a1")
		guest := pod("guest", "")
		guest.Labels = map[string]string{"app": "x"}
		if d := cycle.New(plugins.All()).Decide(framework.NewPod(guest), k.View()); d.Node == nil || d.Node.Node.Name != c.want {
			t.Errorf("%s: on %v, want %s (%s)", name, d.Node.Node.Name, c.want, d.Short)
		}
	}
}

// Spreading counts on the index, or node by node where some nodes do not count: both say the same where all do.
func TestSpreadCountsAlike(t *testing.T) {
	for _, honour := range []bool{false, true} {
		c := zones()
		p := pod("p", "")
		p.Labels = map[string]string{"app": "x"}
		p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
			WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels}}}
		if honour {
			p.Spec.TopologySpreadConstraints[0].NodeTaintsPolicy = ptr.To(corev1.NodeInclusionPolicyHonor)
		}
		for i, want := range []string{"a1 a2 b1 ", "b1 ", "a1 a2 b1 ", "b1 "} {
			if got := fitting(c, p); got != want {
				t.Errorf("honour taints %v, with %d Pods: fits on %s, want %s", honour, i, got, want)
			}
			other := p.DeepCopy()
			other.UID = types.UID(fmt.Sprint(i))
			put(c, other, []string{"a1", "b1", "a2", "b1"}[i])
		}
		if honour {
			tainted := node("c1", map[string]string{corev1.LabelHostname: "c1", corev1.LabelTopologyZone: "c"})
			tainted.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
			c.SetNode(tainted)
			if got := fitting(c, p); got != "a1 a2 b1 " {
				t.Errorf("beside a tainted zone that does not count: fits on %s", got)
			}
		}
	}
}
