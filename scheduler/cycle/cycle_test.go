package cycle_test

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins"
)

func newCluster(nodes ...*corev1.Node) *cluster.Cluster {
	c := cluster.New(func(string) map[string]string { return nil })
	for _, n := range nodes {
		c.SetNode(n)
	}
	return c
}

func node(name, zone string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}}
	if zone != "" {
		n.Labels[corev1.LabelTopologyZone] = zone
	}
	n.Status.Allocatable = corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("4Gi"), corev1.ResourcePods: resource.MustParse("10")}
	return n
}

func pod(name, cpu string, priority int32) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name)},
		Spec: corev1.PodSpec{Priority: &priority, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}}}}},
	}
}

func put(c *cluster.Cluster, p *corev1.Pod, node string) { c.SetPod(framework.NewPod(p), node) }

func decide(c *cluster.Cluster, p *corev1.Pod) cycle.Decision {
	return cycle.New(plugins.All()).Decide(framework.NewPod(p), c.View())
}

// A Pod of a DaemonSet names its node: the others are out of question for its affinity, not looked at one by one.
func TestNamedNodeIsTheOnlyOne(t *testing.T) {
	c := newCluster(node("n1", ""), node("n2", ""), node("n3", ""))
	onto := func(p *corev1.Pod, names ...string) *corev1.Pod {
		var terms []corev1.NodeSelectorTerm
		for _, name := range names {
			terms = append(terms, corev1.NodeSelectorTerm{MatchFields: []corev1.NodeSelectorRequirement{
				{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{name}}}})
		}
		p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: terms}}}
		return p
	}
	if d := decide(c, onto(pod("p", "1", 0), "n2")); d.Node == nil || d.Node.Node.Name != "n2" {
		t.Errorf("not on n2: %s", d.Short)
	}
	put(c, pod("there", "1500m", 0), "n2")
	if d := decide(c, onto(pod("p", "1", 0), "n2")); d.Node != nil || len(d.Busy) != 1 ||
		d.Short != "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't satisfy plugin(s) [NodeAffinity]." {
		t.Errorf("got %q, busy %v", d.Short, d.Busy)
	}
	if d := decide(c, onto(pod("p", "1", 0), "n2", "n3")); d.Node == nil || d.Node.Node.Name != "n3" {
		t.Errorf("not on n3: %s", d.Short)
	}
	if d := decide(c, onto(pod("p", "1", 0), "unknown")); d.Node != nil || d.Short != "0/3 nodes are available: 3 node(s) didn't satisfy plugin(s) [NodeAffinity]." ||
		!slices.Equal(d.RejectedBy, []string{"NodeAffinity"}) {
		t.Errorf("got %q by %v", d.Short, d.RejectedBy)
	}
	both := onto(pod("p", "1", 0), "n1")
	fields := &both.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms[0].MatchFields
	*fields = append(*fields, corev1.NodeSelectorRequirement{Key: metav1.ObjectNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{"n2"}})
	if d := decide(c, both); d.Node != nil || d.Short != "0/3 nodes are available: pod affinity terms conflict." {
		t.Errorf("got %q", d.Short)
	}
}

// A Pod goes where room was promised to it, though another node scores higher; where that does not do, elsewhere.
func TestPromisedNodeComesFirst(t *testing.T) {
	c := newCluster(node("empty", ""), node("promised", ""))
	put(c, pod("there", "500m", 0), "promised")
	p := framework.NewPod(pod("p", "1", 0))
	for _, want := range []string{"empty", "promised", "empty"} {
		if d := cycle.New(plugins.All()).Decide(p, c.View()); d.Node == nil || d.Node.Node.Name != want {
			t.Errorf("want %s, got %+v", want, d)
		}
		if want == "empty" {
			c.Promise(p, "promised")
		} else {
			put(c, pod("more", "1", 0), "promised")
		}
	}
}

// Among equal nodes each gets its turn.
func TestEqualsTakeTurns(t *testing.T) {
	c := newCluster(node("n1", ""), node("n2", ""), node("n3", ""))
	rules := cycle.New(plugins.All())
	got := map[string]int{}
	for range 30 {
		got[rules.Decide(framework.NewPod(pod("p", "1", 0)), c.View()).Node.Node.Name]++
	}
	for _, name := range []string{"n1", "n2", "n3"} {
		if got[name] != 10 {
			t.Errorf("30 decisions between equals: %v, want 10 each", got)
		}
	}
}

// A search that is content with some of many nodes looks at all zones alike, though they came one after the other and changed
// since.
func TestNeighboursAreInDifferentZones(t *testing.T) {
	c := newCluster()
	for i := range 30 {
		c.SetNode(node(fmt.Sprint("n", i), fmt.Sprint("zone-", i/10)))
	}
	inOrder := func(what string) {
		t.Helper()
		nodes := c.View().Nodes
		for i := 1; i < len(nodes); i++ {
			if nodes[i].Node.Labels[corev1.LabelTopologyZone] == nodes[i-1].Node.Labels[corev1.LabelTopologyZone] {
				t.Fatalf("%s: nodes %d and %d of %d are both in %s", what, i-1, i, len(nodes), nodes[i].Node.Labels[corev1.LabelTopologyZone])
			}
		}
	}
	inOrder("three zones of ten")
	for i := range 10 {
		c.RemoveNode(fmt.Sprint("n", i))
	}
	inOrder("one zone has gone")
	c.SetNode(node("n10", "zone-9"))
	c.SetNode(node("n20", "zone-9"))
	inOrder("two nodes have moved")
}

func TestPreemptionChooses(t *testing.T) {
	old, young := metav1.NewTime(time.Unix(1000, 0)), metav1.NewTime(time.Unix(2000, 0))
	started := func(p *corev1.Pod, at metav1.Time) *corev1.Pod {
		p.Status.StartTime = &at
		return p
	}
	labelled := func(p *corev1.Pod) *corev1.Pod {
		p.Labels = map[string]string{"app": "guarded"}
		return p
	}
	budget := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Namespace: "default"},
		Spec: policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "guarded"}}}}
	for name, test := range map[string]struct {
		on      map[string][]*corev1.Pod
		want    string
		victims string
	}{
		"a budget before a priority": {map[string][]*corev1.Pod{
			"n1": {labelled(pod("guarded", "2", 1))}, "n2": {pod("high", "2", 9)}}, "n2", "high"},
		"the less important first victim": {map[string][]*corev1.Pod{
			"n1": {pod("five", "2", 5)}, "n2": {pod("four-a", "1", 4), pod("four-b", "1", 4)}}, "n2", "four-a four-b"},
		"the smaller sum": {map[string][]*corev1.Pod{
			"n1": {pod("a5", "1", 5), pod("a4", "1", 4)}, "n2": {pod("b5", "1", 5), pod("b3", "1", 3)}}, "n2", "b5 b3"},
		"of as important, the one that began last": {map[string][]*corev1.Pod{
			"n1": {started(pod("old", "2", 5), old)}, "n2": {started(pod("young", "2", 5), young)}}, "n2", "young"},
		"one that has not begun before all": {map[string][]*corev1.Pod{
			"n1": {started(pod("young", "2", 5), young)}, "n2": {pod("bound", "2", 5)}}, "n2", "bound"},
		"the guarded one stays, if another's going does": {map[string][]*corev1.Pod{
			"n1": {labelled(pod("guarded", "1", 1)), pod("other", "1", 3)}}, "n1", "other"},
		"of as important, the one that runs longer stays": {map[string][]*corev1.Pod{
			"n1": {started(pod("a", "1", 3), young), started(pod("b", "1", 3), old)}}, "n1", "a"},
		"the more important stays": {map[string][]*corev1.Pod{
			"n1": {pod("three", "1", 3), pod("one", "1", 1)}}, "n1", "one"},
	} {
		for _, reversed := range []bool{false, true} {
			t.Run(fmt.Sprint(name, reversed), func(t *testing.T) {
				c := newCluster()
				names := slices.Sorted(maps.Keys(test.on))
				if reversed {
					slices.Reverse(names)
				}
				for _, n := range names {
					c.SetNode(node(n, ""))
					for _, p := range test.on[n] {
						put(c, p, n)
					}
				}
				cpu := "2"
				if len(test.on) == 1 {
					cpu = "1"
				}
				p := framework.NewPod(pod("vip", cpu, 100))
				rules := cycle.New(plugins.All())
				plan, why := rules.Preempt(p, c.View(), rules.Decide(p, c.View()), []*policyv1.PodDisruptionBudget{budget})
				if plan == nil {
					t.Fatal(why)
				}
				var victims []string
				for _, v := range plan.Victims {
					victims = append(victims, v.Name)
				}
				if plan.Node.Node.Name != test.want || strings.Join(victims, " ") != test.victims {
					t.Errorf("on %s for %v, want %s for %s", plan.Node.Node.Name, victims, test.want, test.victims)
				}
			})
		}
	}
}

// Where preemption does not help, the event says so of each node: there is nobody to preempt, the Pod would not fit all the same, or
// the node is out of question.
func TestPreemptionSaysWhyNot(t *testing.T) {
	cordoned := node("cordoned", "")
	cordoned.Spec.Unschedulable = true
	c := newCluster(cordoned, node("equal", ""), node("high", ""))
	put(c, pod("as-important", "2", 100), "equal")
	put(c, pod("more-important", "1500m", 200), "high")
	put(c, pod("less-important", "500m", 1), "high")
	p := framework.NewPod(pod("vip", "1", 100))
	rules := cycle.New(plugins.All())
	plan, why := rules.Preempt(p, c.View(), rules.Decide(p, c.View()), nil)
	const want = "0/3 nodes are available: 1 Insufficient cpu, 1 No preemption victims found for incoming pod, 1 Preemption is not helpful for scheduling."
	if plan != nil || why != want {
		t.Errorf("got %v, %q, want %q", plan, why, want)
	}
}

// Only a Pod that was preempted makes another wait for its going on the node that is promised, and not where that node is out of
// question by now.
func TestEligible(t *testing.T) {
	c := newCluster(node("n1", ""))
	going := pod("going", "2", 1)
	going.DeletionTimestamp = new(metav1.Now())
	put(c, going, "n1")
	p := framework.NewPod(pod("vip", "1", 100))
	n := c.View().Nodes[0]
	busy := []*framework.Node{n}
	if ok, why := cycle.Eligible(p, n, busy); !ok {
		t.Errorf("a Pod that goes for another reason: %s", why)
	}
	preempted := going.DeepCopy()
	preempted.Status.Conditions = []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue, Reason: corev1.PodReasonPreemptionByScheduler}}
	put(c, preempted, "n1")
	if ok, why := cycle.Eligible(p, n, busy); ok || why != "not eligible due to a terminating pod on the nominated node." {
		t.Errorf("a Pod that is being preempted: %v %q", ok, why)
	}
	if ok, why := cycle.Eligible(p, n, nil); !ok {
		t.Errorf("a node that is out of question: %s", why)
	}
}
