package daemonset_test

import (
	"slices"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/controllers/daemonset"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

var agent = map[string]string{"app": "agent"}

func node(t *testing.T, w *controltest.World, name string, taints ...corev1.Taint) {
	t.Helper()
	_, err := w.Client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func start(t *testing.T, strategy appsv1.DaemonSetUpdateStrategyType) *controltest.World {
	t.Helper()
	w := controltest.Start(t, daemonset.New)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Apps().V1().DaemonSets().Informer())
	w.Kubelet(t, "app=agent")
	node(t, w, "a")
	node(t, w, "b", corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule})
	node(t, w, "c", corev1.Taint{Key: "gpu", Effect: corev1.TaintEffectNoSchedule})
	ds := &appsv1.DaemonSet{ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: ns}, Spec: appsv1.DaemonSetSpec{
		Selector: &metav1.LabelSelector{MatchLabels: agent}, Template: controltest.Template(agent),
		UpdateStrategy: appsv1.DaemonSetUpdateStrategy{Type: strategy}}}
	if _, err := w.Client.AppsV1().DaemonSets(ns).Create(t.Context(), ds, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

func served(t *testing.T, w *controltest.World, nodes int32) {
	t.Helper()
	w.Await(t, "all nodes to be served", func() bool {
		ds, err := w.Client.AppsV1().DaemonSets(ns).Get(t.Context(), "agent", metav1.GetOptions{})
		s := ds.Status
		return err == nil && s.ObservedGeneration == ds.Generation && s.DesiredNumberScheduled == nodes && s.CurrentNumberScheduled == nodes &&
			s.NumberAvailable == nodes && s.UpdatedNumberScheduled == nodes && s.NumberUnavailable == 0 && s.NumberMisscheduled == 0
	})
}

// targets are the nodes that Pods are made for, with their images.
func targets(t *testing.T, w *controltest.World) (out []string) {
	t.Helper()
	for _, p := range w.Pods(t, "app=agent") {
		terms := p.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
		out = append(out, terms[0].MatchFields[0].Values[0]+" "+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return out
}

func patch(t *testing.T, w *controltest.World, image string) {
	t.Helper()
	_, err := w.Client.AppsV1().DaemonSets(ns).Patch(t.Context(), "agent", types.StrategicMergePatchType,
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"`+image+`"}]}}}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOneOnEachNode(t *testing.T) {
	w := start(t, "")
	served(t, w, 2)
	if got := targets(t, w); !slices.Equal(got, []string{"a hello", "b hello"}) {
		t.Errorf("Pods for %v", got)
	}
	node(t, w, "d")
	served(t, w, 3)
	w.DeletePod(t, w.Pods(t, "app=agent")[0].Name)
	served(t, w, 3)
	patch(t, w, "hello:2")
	served(t, w, 3)
	if got := targets(t, w); !slices.Equal(got, []string{"a hello:2", "b hello:2", "d hello:2"}) {
		t.Errorf("Pods for %v", got)
	}
	list, err := w.Client.AppsV1().ControllerRevisions(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("%d revisions, %v", len(list.Items), err)
	}
	patch(t, w, "hello")
	served(t, w, 3)
	w.Await(t, "the first revision to be the newest", func() bool {
		list, err := w.Client.AppsV1().ControllerRevisions(ns).List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 2 && max(list.Items[0].Revision, list.Items[1].Revision) == 3
	})
}

func TestOnDelete(t *testing.T) {
	w := start(t, appsv1.OnDeleteDaemonSetStrategyType)
	served(t, w, 2)
	patch(t, w, "hello:2")
	w.Await(t, "the change to be seen", func() bool {
		ds, err := w.Client.AppsV1().DaemonSets(ns).Get(t.Context(), "agent", metav1.GetOptions{})
		return err == nil && ds.Status.ObservedGeneration == ds.Generation && ds.Status.UpdatedNumberScheduled == 0
	})
	for _, p := range w.Pods(t, "app=agent") {
		w.DeletePod(t, p.Name)
	}
	served(t, w, 2)
	if got := targets(t, w); !slices.Equal(got, []string{"a hello:2", "b hello:2"}) {
		t.Errorf("Pods for %v", got)
	}
}
