package nodelifecycle

import (
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestDesiredTaints(t *testing.T) {
	now := metav1.Now()
	no := func(keys ...string) []corev1.Taint {
		out := []corev1.Taint{}
		for _, k := range keys {
			out = append(out, corev1.Taint{Key: k, Effect: corev1.TaintEffectNoSchedule})
		}
		return out
	}
	ready := func(s corev1.ConditionStatus) corev1.NodeCondition {
		return corev1.NodeCondition{Type: corev1.NodeReady, Status: s}
	}
	user := corev1.Taint{Key: "user", Value: "x", Effect: corev1.TaintEffectNoExecute}
	for name, c := range map[string]struct {
		node  corev1.Node
		want  []corev1.Taint
		evict bool
	}{
		"ready loses the taint it registered with": {
			corev1.Node{Spec: corev1.NodeSpec{Taints: no(corev1.TaintNodeNotReady)}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready(corev1.ConditionTrue)}}},
			no(), true,
		},
		"unknown is unreachable, others' taints stay": {
			corev1.Node{Spec: corev1.NodeSpec{Taints: append(no(corev1.TaintNodeNotReady), user)}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready(corev1.ConditionUnknown)}}},
			append([]corev1.Taint{user}, no(corev1.TaintNodeUnreachable)...), false,
		},
		"unreachable evicts where Pods could go elsewhere, and not ready no longer does": {
			corev1.Node{Spec: corev1.NodeSpec{Taints: append(no(corev1.TaintNodeUnreachable), corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoExecute})},
				Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{ready(corev1.ConditionUnknown)}}},
			append(no(corev1.TaintNodeUnreachable), corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute, TimeAdded: &now}), true,
		},
		"pressure and cordon": {
			corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true}, Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
				ready(corev1.ConditionTrue), {Type: corev1.NodeDiskPressure, Status: corev1.ConditionTrue}}}},
			no(corev1.TaintNodeDiskPressure, corev1.TaintNodeUnschedulable), true,
		},
	} {
		if diff := cmp.Diff(c.want, desired(&c.node, c.evict, now)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

func TestSilentNodeIsUnknown(t *testing.T) {
	now := metav1.Now()
	heard := metav1.NewTime(now.Add(-time.Hour))
	node := &corev1.Node{Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{
		{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: heard, LastTransitionTime: heard}}}}
	list := unknown(node, now)
	if len(list) != 4 {
		t.Fatalf("%d conditions, want four", len(list))
	}
	for _, c := range list {
		if c.Status != corev1.ConditionUnknown || !c.LastTransitionTime.Equal(&now) {
			t.Errorf("%s is %s since %s", c.Type, c.Status, c.LastTransitionTime)
		}
	}
	if list[0].Reason != "NodeStatusUnknown" || !list[0].LastHeartbeatTime.Equal(&heard) || list[1].Reason != "NodeStatusNeverUpdated" {
		t.Errorf("the reasons do not say what was heard when: %v", list)
	}
	if node.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Error("the node, which is shared, was changed")
	}
	for name, c := range map[string]struct {
		node        *corev1.Node
		grace, want time.Duration
	}{
		"a node":                         {node, 50 * time.Second, 50 * time.Second},
		"with another time":              {node, 10 * time.Minute, 10 * time.Minute},
		"that has never said that it is": {&corev1.Node{}, 50 * time.Second, 60 * time.Second},
	} {
		if silentFor(c.node, now.Add(c.want/-2), c.grace) <= 0 || silentFor(c.node, now.Add(-c.want), c.grace) > 0 {
			t.Errorf("%s may not be silent for just %s", name, c.want)
		}
	}
}

// All nodes are looked at again when the first becomes ready or the last no longer is, and at no other time.
func TestReadyNodesTellFirstAndLast(t *testing.T) {
	r := readyNodes{names: map[string]bool{}}
	for i, step := range []struct {
		name             string
		ready, tell, any bool
	}{
		{"a", false, false, false},
		{"a", true, true, true},
		{"b", true, false, true},
		{"b", true, false, true},
		{"a", false, false, true},
		{"b", false, true, false},
		{"b", false, false, false},
	} {
		if tell := r.set(step.name, step.ready); tell != step.tell || r.any() != step.any {
			t.Errorf("step %d: %s ready=%t: told %t, any %t; want %t, %t", i, step.name, step.ready, tell, r.any(), step.tell, step.any)
		}
	}
}
