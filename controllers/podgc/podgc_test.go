package podgc

import (
	"fmt"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/test/controltest"
)

func start(t *testing.T, s settings) *controltest.World {
	t.Helper()
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) { return newCollector(d, s) })
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	return w
}

// forgiving never finds a node missing for long enough.
var forgiving = settings{quarantine: time.Hour, keep: 100}

func node(t *testing.T, w *controltest.World, name string, ready corev1.ConditionStatus, taints ...corev1.Taint) *corev1.Node {
	t.Helper()
	n, err := w.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints},
		Status: corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return n
}

func pod(t *testing.T, w *controltest.World, name, node string, finalizers ...string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Finalizers: finalizers}, Spec: controltest.Template(nil).Spec}
	grace := int64(3600)
	p.Spec.NodeName, p.Spec.TerminationGracePeriodSeconds = node, &grace
	p, err := w.Client.CoreV1().Pods(controltest.Namespace).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func remove(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	if err := w.Client.CoreV1().Pods(controltest.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func get(t *testing.T, w *controltest.World, name string) *corev1.Pod {
	t.Helper()
	p, err := w.Client.CoreV1().Pods(controltest.Namespace).Get(t.Context(), name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func awaitGone(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	w.Await(t, "Pod "+name+" is gone", func() bool { return get(t, w, name) == nil })
}

func TestPodOfLostNode(t *testing.T) {
	w := start(t, settings{quarantine: 0, keep: 100})
	node(t, w, "stays", corev1.ConditionTrue)
	node(t, w, "goes", corev1.ConditionTrue)
	pod(t, w, "kept", "stays")
	pod(t, w, "lost", "goes", "example.com/look") // the finalizer lets the test see what became of it
	pod(t, w, "plain", "goes")
	if err := w.Client.CoreV1().Nodes().Delete(t.Context(), "goes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, w, "plain")
	var p *corev1.Pod
	w.Await(t, "Pod is being deleted", func() bool { p = get(t, w, "lost"); return p.DeletionTimestamp != nil })
	if p.Status.Phase != corev1.PodFailed || *p.DeletionGracePeriodSeconds != 0 {
		t.Errorf("phase %s, grace %d", p.Status.Phase, *p.DeletionGracePeriodSeconds)
	}
	if i := slices.IndexFunc(p.Status.Conditions, func(c corev1.PodCondition) bool { return c.Type == corev1.DisruptionTarget }); i < 0 ||
		p.Status.Conditions[i].Reason != "DeletionByPodGC" || p.Status.Conditions[i].Message != "PodGC: node no longer exists" {
		t.Errorf("conditions are %+v", p.Status.Conditions)
	}
	if p := get(t, w, "kept"); p == nil || p.DeletionTimestamp != nil {
		t.Error("the Pod of a node that is there went, too")
	}
}

// Within the quarantine a node may come again, and its Pods stay.
func TestQuarantine(t *testing.T) {
	w := start(t, forgiving)
	lost := pod(t, w, "lost", "missing")
	// When this one is gone, the other has been looked at: keys are worked on in their order, by four workers.
	for i := range 8 {
		name := fmt.Sprintf("later-%d", i)
		pod(t, w, name, "", "example.com/look")
		remove(t, w, name)
		w.Await(t, "later Pod has failed", func() bool { return get(t, w, name).Status.Phase == corev1.PodFailed })
	}
	if p := get(t, w, "lost"); p == nil || p.UID != lost.UID || p.DeletionTimestamp != nil || p.Status.Phase == corev1.PodFailed {
		t.Error("the Pod of a node that is missing only just went")
	}
}

func TestOutOfService(t *testing.T) {
	w := start(t, forgiving)
	out := corev1.Taint{Key: corev1.TaintNodeOutOfService, Value: "nodeshutdown", Effect: corev1.TaintEffectNoExecute}
	node(t, w, "contradicts", corev1.ConditionTrue, out)
	dead := node(t, w, "dead", corev1.ConditionFalse)
	for name, node := range map[string]string{"a": "dead", "staying": "dead", "b": "contradicts"} {
		pod(t, w, name, node)
	}
	remove(t, w, "a")
	remove(t, w, "b")
	if p := get(t, w, "a"); p == nil {
		t.Fatal("a Pod went from a node that is only not ready")
	}
	dead.Spec.Taints = []corev1.Taint{out}
	if _, err := w.Client.CoreV1().Nodes().Update(t.Context(), dead, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, w, "a")
	// One that is deleted while the node is out of service goes as well.
	pod(t, w, "c", "dead")
	remove(t, w, "c")
	awaitGone(t, w, "c")
	if p := get(t, w, "staying"); p == nil || p.DeletionTimestamp != nil {
		t.Error("a Pod that nobody deleted went")
	}
	if p := get(t, w, "b"); p == nil || p.Status.Phase == corev1.PodFailed {
		t.Error("a Pod went from a node that is ready: it may still run there")
	}
}

func TestUnscheduledPodThatIsDeleted(t *testing.T) {
	w := start(t, forgiving)
	pod(t, w, "held", "", "example.com/look")
	pod(t, w, "waiting", "")
	remove(t, w, "held")
	w.Await(t, "Pod has failed", func() bool { return get(t, w, "held").Status.Phase == corev1.PodFailed })
	if p := get(t, w, "waiting"); p == nil || p.Status.Phase != corev1.PodPending {
		t.Error("a Pod that waits for a node was touched")
	}
}

func TestTooManyEnded(t *testing.T) {
	w := start(t, settings{quarantine: time.Hour, keep: 2})
	node(t, w, "n", corev1.ConditionTrue)
	for _, name := range []string{"a", "b", "c", "running"} {
		pod(t, w, name, "n")
	}
	for _, name := range []string{"a", "b"} {
		w.SetPhase(t, get(t, w, name), corev1.PodSucceeded)
	}
	c := get(t, w, "c")
	c.Status.Reason = "Evicted"
	w.SetPhase(t, c, corev1.PodFailed)
	awaitGone(t, w, "c")
	for _, name := range []string{"a", "b", "running"} {
		if get(t, w, name) == nil {
			t.Errorf("Pod %s is gone", name)
		}
	}
}
