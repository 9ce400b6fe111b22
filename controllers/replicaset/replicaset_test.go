package replicaset_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/replicaset"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

func start(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, replicaset.New, replicaset.NewReplication)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Apps().V1().ReplicaSets().Informer())
	w.Watch(t, w.Informers.Core().V1().ReplicationControllers().Informer())
	return w
}

var web = map[string]string{"app": "web"}

func create(t *testing.T, w *controltest.World, replicas int32, change func(*appsv1.ReplicaSet)) *appsv1.ReplicaSet {
	t.Helper()
	rs := &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: controltest.Template(web)},
	}
	if change != nil {
		change(rs)
	}
	made, err := w.Client.AppsV1().ReplicaSets(ns).Create(t.Context(), rs, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func get(t *testing.T, w *controltest.World) *appsv1.ReplicaSet {
	t.Helper()
	rs, err := w.Client.AppsV1().ReplicaSets(ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

func patch(t *testing.T, w *controltest.World, resource, name, body string) {
	t.Helper()
	var err error
	switch resource {
	case "pod":
		_, err = w.Client.CoreV1().Pods(ns).Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	case "rs":
		_, err = w.Client.AppsV1().ReplicaSets(ns).Patch(t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	}
	if err != nil {
		t.Fatal(err)
	}
}

// settled waits for a status of so many Pods, all observed.
func settled(t *testing.T, w *controltest.World, replicas, ready, available int32) {
	t.Helper()
	w.Await(t, "status", func() bool {
		s := get(t, w)
		return s.Status.ObservedGeneration == s.Generation && s.Status.Replicas == replicas && s.Status.FullyLabeledReplicas <= replicas &&
			s.Status.ReadyReplicas == ready && s.Status.AvailableReplicas == available
	})
}

func TestKeepsTheNumber(t *testing.T) {
	w := start(t)
	rs := create(t, w, 3, nil)
	settled(t, w, 3, 0, 0)
	list := w.Pods(t, "app=web")
	if len(list) != 3 {
		t.Fatalf("%d Pods, want 3", len(list))
	}
	for _, p := range list {
		ref := metav1.GetControllerOf(&p)
		if ref == nil || ref.UID != rs.UID || ref.Kind != "ReplicaSet" || !*ref.BlockOwnerDeletion || !strings.HasPrefix(p.Name, "web-") {
			t.Errorf("Pod %s has the controller %+v", p.Name, ref)
		}
		w.SetPhase(t, &p, corev1.PodRunning)
	}
	settled(t, w, 3, 3, 3)
	if m := w.Event(t, "web", "SuccessfulCreate", "Created pod: web-"); !strings.HasPrefix(m, "Created pod: web-") {
		t.Errorf("event says %q", m)
	}
	// One that is deleted is replaced; so is one that fails.
	w.DeletePod(t, list[0].Name)
	settled(t, w, 3, 2, 2)
	w.SetPhase(t, ptr.To(w.Pods(t, "app=web")[0]), corev1.PodFailed)
	w.Await(t, "four Pods, one failed", func() bool { return len(w.Pods(t, "app=web")) == 4 })
	// Fewer: those that are not ready go first.
	patch(t, w, "rs", "web", `{"spec":{"replicas":1}}`)
	w.Await(t, "one Pod and the failed one", func() bool { return get(t, w).Status.Replicas == 1 })
	settled(t, w, 1, 1, 1)
	if m := w.Event(t, "web", "SuccessfulDelete", "Deleted pod: web-"); !strings.HasPrefix(m, "Deleted pod: web-") {
		t.Errorf("event says %q", m)
	}
	patch(t, w, "rs", "web", `{"spec":{"replicas":0}}`)
	settled(t, w, 0, 0, 0)
}

func TestLabelsDecide(t *testing.T) {
	w := start(t)
	// An orphan that matches is adopted instead of made.
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Namespace: ns, Labels: web}, Spec: controltest.Template(web).Spec}
	if _, err := w.Client.CoreV1().Pods(ns).Create(t.Context(), orphan, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	create(t, w, 2, nil)
	settled(t, w, 2, 0, 0)
	list := w.Pods(t, "app=web")
	if len(list) != 2 {
		t.Fatalf("%d Pods, want the orphan and one more", len(list))
	}
	// Relabeled, it is let go and replaced.
	patch(t, w, "pod", "orphan", `{"metadata":{"labels":{"app":"other"}}}`)
	w.Await(t, "a replacement", func() bool { return len(w.Pods(t, "app=web")) == 2 })
	w.Await(t, "release", func() bool { return len(w.Pods(t, "app=other")[0].OwnerReferences) == 0 })
	settled(t, w, 2, 0, 0)
	// Labeled back, it is adopted and a surplus goes.
	patch(t, w, "pod", "orphan", `{"metadata":{"labels":{"app":"web"}}}`)
	w.Await(t, "the surplus to go", func() bool { return len(w.Pods(t, "app=web")) == 2 })
	for _, p := range w.Pods(t, "app=web") {
		if metav1.GetControllerOf(&p) == nil {
			t.Errorf("Pod %s has no controller", p.Name)
		}
	}
}

func TestAvailabilityTakesTime(t *testing.T) {
	w := start(t)
	create(t, w, 1, func(rs *appsv1.ReplicaSet) { rs.Spec.MinReadySeconds = 60 + 2 })
	settled(t, w, 1, 0, 0)
	w.SetPhase(t, &w.Pods(t, "app=web")[0], corev1.PodRunning) // ready since 60 s
	settled(t, w, 1, 1, 0)
	settled(t, w, 1, 1, 1)
}

func TestFailureIsTold(t *testing.T) {
	w := start(t)
	// What a template may say and no Pod: its finalizers are looked at when the Pod is made.
	create(t, w, 2, func(rs *appsv1.ReplicaSet) { rs.Spec.Template.Finalizers = []string{"no name!"} })
	w.Await(t, "condition", func() bool {
		c := get(t, w).Status.Conditions
		return len(c) == 1 && c[0].Type == appsv1.ReplicaSetReplicaFailure && c[0].Status == corev1.ConditionTrue && c[0].Reason == "FailedCreate"
	})
	if m := w.Event(t, "web", "FailedCreate", "Error creating: "); !strings.HasPrefix(m, "Error creating: ") {
		t.Errorf("event says %q", m)
	}
}

func TestReplicationController(t *testing.T) {
	w := start(t)
	rc := &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: ns},
		Spec:       corev1.ReplicationControllerSpec{Replicas: ptr.To[int32](2), Selector: web, Template: ptr.To(controltest.Template(web))},
	}
	if _, err := w.Client.CoreV1().ReplicationControllers(ns).Create(t.Context(), rc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Kubelet(t, "app=web")
	w.Await(t, "two ready Pods", func() bool {
		now, err := w.Client.CoreV1().ReplicationControllers(ns).Get(t.Context(), "old", metav1.GetOptions{})
		return err == nil && now.Status.AvailableReplicas == 2 && now.Status.ObservedGeneration == now.Generation
	})
	for _, p := range w.Pods(t, "app=web") {
		if ref := metav1.GetControllerOf(&p); ref == nil || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
			t.Errorf("Pod %s has the controller %+v", p.Name, ref)
		}
	}
}
