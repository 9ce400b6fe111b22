package nodelifecycle_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/controllers/nodelifecycle"
	"github.com/peapod/peapod/test/controltest"
)

// TestNodesComeAndGo: events say so, of the node by its UID.
func TestNodesComeAndGo(t *testing.T) {
	w := controltest.Start(t, nodelifecycle.New)
	nodes := w.Client.CoreV1().Nodes()
	node, err := nodes.Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Event(t, "n1", "RegisteredNode", "Node n1 event: Registered Node n1 in Controller")
	if err := nodes.Delete(t.Context(), "n1", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Event(t, "n1", "RemovingNode", "Node n1 event: Removing Node n1 from Controller")
	list, err := w.Client.CoreV1().Events(controltest.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.kind=Node"})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("%d events, %v", len(list.Items), err)
	}
	for _, e := range list.Items {
		if e.InvolvedObject.UID != node.UID || e.Count != 1 {
			t.Errorf("event %s is about %q, %d times", e.Reason, e.InvolvedObject.UID, e.Count)
		}
	}
}
