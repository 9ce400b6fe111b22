package tainteviction_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/tainteviction"
	"github.com/peapod/peapod/test/controltest"
)

// TestSparedPods: of Pods that were to go in an hour, those are told that they stay whose node has lost the taint.
func TestSparedPods(t *testing.T) {
	w := controltest.Start(t, tainteviction.New)
	w.Watch(t, w.Informers.Core().V1().Nodes().Informer())
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	taint := corev1.Taint{Key: "k", Effect: corev1.TaintEffectNoExecute}
	node, err := w.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for name, seconds := range map[string]*int64{"hour": ptr.To[int64](3600), "ever": nil} {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: controltest.Template(nil).Spec}
		p.Spec.NodeName, p.Spec.Tolerations = "n1", []corev1.Toleration{{Key: "k", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: seconds}}
		if _, err := w.Client.CoreV1().Pods(controltest.Namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.Await(t, "the controller to know the Pods and the taint", func() bool {
		pods, err := w.Informers.Core().V1().Pods().Lister().Pods(controltest.Namespace).Get("hour")
		other, err2 := w.Informers.Core().V1().Pods().Lister().Pods(controltest.Namespace).Get("ever")
		n, err3 := w.Informers.Core().V1().Nodes().Lister().Get("n1")
		return err == nil && err2 == nil && err3 == nil && pods != nil && other != nil && len(n.Spec.Taints) == 1
	})
	node.Spec.Taints = nil
	if _, err := w.Client.CoreV1().Nodes().Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Event(t, "hour", "TaintManagerEviction", "Cancelling deletion of Pod default/hour")
	list, err := w.Client.CoreV1().Events(controltest.Namespace).List(t.Context(), metav1.ListOptions{FieldSelector: "involvedObject.name=ever"})
	if err != nil || len(list.Items) != 0 {
		t.Errorf("events of one that was to stay: %v, %v", list.Items, err)
	}
}
