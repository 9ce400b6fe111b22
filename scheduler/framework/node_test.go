package framework

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
)

// What a node keeps of its Pods and of itself follows each change.
func TestNodeKeepsWhatIsAskedOften(t *testing.T) {
	n := nodesOf(NewIndex(func(string) map[string]string { return nil }), nil)[0]
	check := func(count int64, taints int, cordoned bool) {
		t.Helper()
		if n.Count != count || int(n.Count) != len(n.Pods) || len(n.Taints) != taints || n.Cordoned != cordoned {
			t.Errorf("%d Pods of %d, taints %v, cordoned %t; want %d, %d, %t", n.Count, len(n.Pods), n.Taints, n.Cordoned, count, taints, cordoned)
		}
	}
	p := NewPod(demanding())
	n.Put(p)
	n.Put(p)
	n.Set(&corev1.Node{Spec: corev1.NodeSpec{Unschedulable: true, Taints: []corev1.Taint{{Key: "k"}}}})
	check(1, 1, true)
	n.Remove(p.UID)
	n.Remove(p.UID)
	n.Set(&corev1.Node{})
	check(0, 0, false)
	n.Set(nil)
	check(0, 0, false)
}
