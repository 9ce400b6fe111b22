package topologyspread_test

import (
	"fmt"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/topologyspread"
)

func newCluster() *cluster.Cluster { return cluster.New(func(string) map[string]string { return nil }) }

func node(name string, l map[string]string) *corev1.Node {
	l = maps.Clone(l)
	if l == nil {
		l = map[string]string{}
	}
	l[corev1.LabelHostname] = name
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: l}}
}

func zoned(name, zone string) *corev1.Node {
	return node(name, map[string]string{corev1.LabelTopologyZone: zone})
}

func pod(name string, l map[string]string) *corev1.Pod {
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), Labels: l}}
}

// scores are what the rule gives each node, by name; nil where it makes no difference.
func scores(c *cluster.Cluster, p *corev1.Pod) map[string]int64 {
	view := c.View()
	of := topologyspread.Plugin{}.PrepareScore(framework.NewPod(p), view, view.Nodes)
	if of == nil {
		return nil
	}
	raw := make([]int64, len(view.Nodes))
	for i, n := range view.Nodes {
		raw[i] = of(n)
	}
	topologyspread.Plugin{}.Normalize(raw)
	out := map[string]int64{}
	for i, n := range view.Nodes {
		out[n.Node.Name] = raw[i]
	}
	return out
}

func want(t *testing.T, what string, got, want map[string]int64) {
	t.Helper()
	if !maps.Equal(got, want) {
		t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// Pods of one group that say nothing of how they are to be spread are spread over nodes, and less so over zones.
func TestDefaultConstraints(t *testing.T) {
	c := newCluster()
	for _, n := range []*corev1.Node{zoned("a1", "a"), zoned("a2", "a"), zoned("b1", "b")} {
		c.SetNode(n)
	}
	web := map[string]string{"app": "web"}
	c.SetPod(framework.NewPod(pod("first", web)), "a1")
	next := pod("next", web)
	want(t, "nobody selects the Pod", scores(c, next), nil)

	groups := c.View().Groups
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: corev1.ServiceSpec{Selector: web}}
	groups.SetService(service)
	// Raw: a1 ln 5 + 2 + ln 4 + 4 = 9, a2 2 + ln 4 + 4 = 7, b1 2 + 4 = 6.
	spread := map[string]int64{"a1": 66, "a2": 88, "b1": 100}
	want(t, "a Service selects it", scores(c, next), spread)
	want(t, "Pods of another namespace", scores(c, func() *corev1.Pod { p := next.DeepCopy(); p.Namespace = "other"; return p }()), nil)
	service = service.DeepCopy()
	service.Spec.Selector = map[string]string{"app": "db"}
	groups.SetService(service)
	want(t, "the Service selects others now", scores(c, next), nil)
	groups.RemoveService(service)

	next.OwnerReferences = []metav1.OwnerReference{{APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1", Controller: new(true)}}
	owner := framework.Owner{Namespace: "default", APIVersion: "apps/v1", Kind: "ReplicaSet", Name: "web-1"}
	groups.SetOwner(owner, &metav1.LabelSelector{MatchLabels: web})
	want(t, "a ReplicaSet manages it", scores(c, next), spread)
	going := pod("going", web)
	going.DeletionTimestamp = new(metav1.Now())
	c.SetPod(framework.NewPod(going), "b1")
	want(t, "a Pod that goes does not count", scores(c, next), spread)
	groups.RemoveOwner(owner)
	want(t, "its owner has gone", scores(c, next), nil)
}

// Nodes without a zone are spread over all the same by default, but not by a Pod's own constraints.
func TestNodesWithoutALabel(t *testing.T) {
	c := newCluster()
	c.SetNode(zoned("a1", "a"))
	c.SetNode(node("bare", nil))
	web := map[string]string{"app": "web"}
	c.SetPod(framework.NewPod(pod("first", web)), "a1")
	p := pod("p", web)
	c.View().Groups.SetService(&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"}, Spec: corev1.ServiceSpec{Selector: web}})
	// Raw: a1 ln 4 + 2 + ln 4 + 4 = 9, bare 2.
	want(t, "by default", scores(c, p), map[string]int64{"a1": 22, "bare": 100})
	p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{MaxSkew: 1, TopologyKey: corev1.LabelTopologyZone,
		WhenUnsatisfiable: corev1.ScheduleAnyway, LabelSelector: &metav1.LabelSelector{MatchLabels: web}}}
	want(t, "by its own constraint", scores(c, p), map[string]int64{"a1": 100, "bare": 0})
}

// The counts that follow each change give the same scores as counting anew by the definition.
func TestScoresAsDefined(t *testing.T) {
	for seed := range uint64(300) {
		r := rand.New(rand.NewPCG(seed, 1))
		c := newCluster()
		var nodes []*corev1.Node
		for i := range 2 + r.IntN(6) {
			n := node(fmt.Sprint("n", i), nil)
			for _, key := range []string{corev1.LabelTopologyZone, "rack"} {
				if r.IntN(5) > 0 {
					n.Labels[key] = fmt.Sprint(r.IntN(3))
				}
			}
			if r.IntN(4) == 0 {
				n.Spec.Taints = []corev1.Taint{{Key: "k", Effect: corev1.TaintEffectNoSchedule}}
			}
			if r.IntN(2) == 0 {
				n.Labels["disk"] = "ssd"
			}
			nodes = append(nodes, n)
			c.SetNode(n)
		}
		p := randomPod(r)
		_ = scores(c, p) // so that the counts follow what comes
		there := map[string][]*corev1.Pod{}
		for i := range r.IntN(15) {
			other := pod(fmt.Sprint("p", i), map[string]string{"app": fmt.Sprint(r.IntN(2)), "tier": fmt.Sprint(r.IntN(2))})
			if r.IntN(6) == 0 {
				other.DeletionTimestamp = new(metav1.Now())
			}
			on := nodes[r.IntN(len(nodes))].Name
			there[on] = append(there[on], other)
			c.SetPod(framework.NewPod(other), on)
		}
		want(t, fmt.Sprint("seed ", seed), scores(c, p), defined(p, nodes, there))
	}
}

func randomPod(r *rand.Rand) *corev1.Pod {
	p := pod("p", map[string]string{"app": "1", "tier": "0"})
	if r.IntN(3) == 0 {
		p.Spec.NodeSelector = map[string]string{"disk": "ssd"}
	}
	for _, key := range []string{corev1.LabelTopologyZone, "rack", corev1.LabelHostname} {
		if r.IntN(3) == 0 {
			continue
		}
		tsc := corev1.TopologySpreadConstraint{MaxSkew: int32(1 + r.IntN(4)), TopologyKey: key, WhenUnsatisfiable: corev1.ScheduleAnyway,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": fmt.Sprint(r.IntN(2))}}}
		policies := []*corev1.NodeInclusionPolicy{nil, new(corev1.NodeInclusionPolicyHonor), new(corev1.NodeInclusionPolicyIgnore)}
		tsc.NodeAffinityPolicy, tsc.NodeTaintsPolicy = policies[r.IntN(3)], policies[r.IntN(3)]
		p.Spec.TopologySpreadConstraints = append(p.Spec.TopologySpreadConstraints, tsc)
	}
	return p
}

// defined counts node by node.
func defined(p *corev1.Pod, nodes []*corev1.Node, there map[string][]*corev1.Pod) map[string]int64 {
	cs := p.Spec.TopologySpreadConstraints
	if len(cs) == 0 {
		return nil
	}
	has := func(n *corev1.Node) bool {
		return !slices.ContainsFunc(cs, func(c corev1.TopologySpreadConstraint) bool { _, ok := n.Labels[c.TopologyKey]; return !ok })
	}
	out, raw := map[string]int64{}, map[string]int64{}
	lowest, highest := int64(math.MaxInt64), int64(0)
	for _, n := range nodes {
		if !has(n) {
			out[n.Name] = 0
			continue
		}
		sum := 0.0
		for _, c := range cs {
			domains, count := map[string]bool{}, 0
			for _, other := range nodes {
				if !has(other) {
					continue
				}
				domains[other.Labels[c.TopologyKey]] = true
				hostname := c.TopologyKey == corev1.LabelHostname
				if other.Labels[c.TopologyKey] == n.Labels[c.TopologyKey] && (hostname || counts(&c, p, other)) {
					count += matching(&c, there[other.Name])
				}
			}
			sum += float64(count)*math.Log(float64(len(domains)+2)) + float64(c.MaxSkew-1)
		}
		raw[n.Name] = int64(math.Round(sum))
		lowest, highest = min(lowest, raw[n.Name]), max(highest, raw[n.Name])
	}
	for name, v := range raw {
		if out[name] = 100; highest > 0 {
			out[name] = 100 * (highest + lowest - v) / highest
		}
	}
	return out
}

func counts(c *corev1.TopologySpreadConstraint, p *corev1.Pod, n *corev1.Node) bool {
	if c.NodeAffinityPolicy == nil || *c.NodeAffinityPolicy == corev1.NodeInclusionPolicyHonor {
		if ok, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(n); err != nil || !ok {
			return false
		}
	}
	return c.NodeTaintsPolicy == nil || *c.NodeTaintsPolicy == corev1.NodeInclusionPolicyIgnore || len(n.Spec.Taints) == 0
}

func matching(c *corev1.TopologySpreadConstraint, pods []*corev1.Pod) (count int) {
	selector := labels.SelectorFromSet(c.LabelSelector.MatchLabels)
	for _, p := range pods {
		if p.DeletionTimestamp == nil && selector.Matches(labels.Set(p.Labels)) {
			count++
		}
	}
	return count
}
