package deployment_test

import (
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/controllers/deployment"
	"github.com/peapod/peapod/controllers/replicaset"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

type world struct {
	*controltest.World
	t *testing.T
}

func start(t *testing.T) *world {
	t.Helper()
	w := controltest.Start(t, deployment.New, replicaset.New)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Apps().V1().ReplicaSets().Informer())
	w.Watch(t, w.Informers.Apps().V1().Deployments().Informer())
	return &world{w, t}
}

var web = map[string]string{"app": "web"}

func (w *world) create(replicas int32, strategy appsv1.DeploymentStrategyType, change func(*appsv1.Deployment)) {
	w.t.Helper()
	d := &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: ns},
		Spec: appsv1.DeploymentSpec{
			Replicas: &replicas, Selector: &metav1.LabelSelector{MatchLabels: web}, Template: controltest.Template(web),
			Strategy: appsv1.DeploymentStrategy{Type: strategy},
		},
	}
	if change != nil {
		change(d)
	}
	if _, err := w.Client.AppsV1().Deployments(ns).Create(w.t.Context(), d, metav1.CreateOptions{}); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) get() *appsv1.Deployment {
	w.t.Helper()
	d, err := w.Client.AppsV1().Deployments(ns).Get(w.t.Context(), "web", metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return d
}

func (w *world) patch(body string) {
	w.t.Helper()
	_, err := w.Client.AppsV1().Deployments(ns).Patch(w.t.Context(), "web", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) setImage(image string) {
	w.t.Helper()
	w.patch(`{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"` + image + `"}]}}}}`)
}

// sets are the ReplicaSets by the image of their Pods.
func (w *world) sets() map[string]appsv1.ReplicaSet {
	w.t.Helper()
	list, err := w.Client.AppsV1().ReplicaSets(ns).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	out := map[string]appsv1.ReplicaSet{}
	for _, rs := range list.Items {
		out[rs.Spec.Template.Spec.Containers[0].Image] = rs
	}
	return out
}

func progress(d *appsv1.Deployment) string {
	for _, c := range d.Status.Conditions {
		if c.Type == appsv1.DeploymentProgressing {
			return c.Reason
		}
	}
	return ""
}

// complete waits until the rollout has ended well.
func (w *world) complete() *appsv1.Deployment {
	w.t.Helper()
	var d *appsv1.Deployment
	w.Await(w.t, "the rollout to complete", func() bool {
		d = w.get()
		n := *d.Spec.Replicas
		return d.Status.ObservedGeneration == d.Generation && d.Status.UpdatedReplicas == n && d.Status.Replicas == n &&
			d.Status.AvailableReplicas == n && d.Status.UnavailableReplicas == 0 && progress(d) == "NewReplicaSetAvailable"
	})
	return d
}

func TestRollOutAndBack(t *testing.T) {
	w := start(t)
	w.Kubelet(t, "app=web")
	w.create(3, "", nil)
	d := w.complete()
	if d.Annotations["deployment.kubernetes.io/revision"] != "1" {
		t.Errorf("annotations %v", d.Annotations)
	}
	first := w.sets()["hello"]
	hash := first.Labels["pod-template-hash"]
	if hash == "" || first.Name != "web-"+hash || first.Spec.Selector.MatchLabels["pod-template-hash"] != hash {
		t.Errorf("ReplicaSet %s with labels %v selects %v", first.Name, first.Labels, first.Spec.Selector)
	}
	w.Event(t, "web", "ScalingReplicaSet", "Scaled up replica set "+first.Name+" from 0 to 3")
	for _, p := range w.Pods(t, "app=web") {
		if !strings.HasPrefix(p.Name, first.Name+"-") {
			t.Errorf("Pod %s", p.Name)
		}
	}
	w.setImage("hello:2")
	w.complete()
	w.Await(t, "the old Pods to go", func() bool { s := w.sets(); o := s["hello"]; return o.Status.Replicas == 0 && *o.Spec.Replicas == 0 })
	if r := w.sets()["hello:2"]; r.Annotations["deployment.kubernetes.io/revision"] != "2" {
		t.Errorf("second revision: %v", r.Annotations)
	}
	// Back: the first set is used again, as a new revision.
	w.setImage("hello")
	w.complete()
	again := w.sets()["hello"]
	if again.UID != first.UID || again.Annotations["deployment.kubernetes.io/revision"] != "3" || again.Annotations["deployment.kubernetes.io/revision-history"] != "1" {
		t.Errorf("third revision: %v", again.Annotations)
	}
	if got := w.get().Annotations["deployment.kubernetes.io/revision"]; got != "3" {
		t.Errorf("revision %s of the Deployment", got)
	}
}

func TestHistoryLimit(t *testing.T) {
	w := start(t)
	w.Kubelet(t, "app=web")
	w.create(1, "", func(d *appsv1.Deployment) { d.Spec.RevisionHistoryLimit = new(int32) })
	w.complete()
	w.setImage("hello:2")
	w.complete()
	w.Await(t, "the old ReplicaSet to go", func() bool { _, old := w.sets()["hello"]; return !old })
}

func TestRecreateWaitsForOldPods(t *testing.T) {
	w := start(t)
	w.create(2, appsv1.RecreateDeploymentStrategyType, func(d *appsv1.Deployment) { d.Spec.Template.Finalizers = []string{"example.com/hold"} })
	w.Await(t, "two Pods", func() bool { return len(w.Pods(t, "app=web")) == 2 })
	old := w.Pods(t, "app=web")
	for i := range old {
		w.SetPhase(t, &old[i], corev1.PodRunning)
	}
	w.complete()
	w.setImage("hello:2")
	w.Await(t, "the old Pods to be deleted", func() bool { return len(w.Pods(t, "app=web")) == 0 })
	w.Await(t, "the old set to have none", func() bool { return w.get().Status.Replicas == 0 })
	if len(w.sets()) != 1 {
		t.Fatal("there is a new ReplicaSet while old Pods run")
	}
	for _, p := range old {
		_, err := w.Client.CoreV1().Pods(ns).Patch(t.Context(), p.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	w.Await(t, "new Pods", func() bool { return len(w.Pods(t, "app=web")) == 2 })
	w.Kubelet(t, "app=web")
	w.complete()
}

func TestPauseAndScale(t *testing.T) {
	w := start(t)
	w.Kubelet(t, "app=web")
	w.create(2, "", nil)
	w.complete()
	w.patch(`{"spec":{"paused":true}}`)
	w.Await(t, "the pause to be noted", func() bool { return progress(w.get()) == "DeploymentPaused" })
	w.setImage("hello:2")
	w.patch(`{"spec":{"replicas":4}}`)
	w.Await(t, "the old set to grow", func() bool { s := w.sets()["hello"]; return s.Status.AvailableReplicas == 4 })
	if len(w.sets()) != 1 {
		t.Error("a paused Deployment rolled out")
	}
	w.patch(`{"spec":{"paused":false}}`)
	w.complete()
	if s := w.sets()["hello:2"]; s.Status.AvailableReplicas != 4 {
		t.Errorf("new set: %+v", s.Status)
	}
}

func TestNoProgress(t *testing.T) {
	w := start(t)
	w.create(1, "", func(d *appsv1.Deployment) {
		d.Spec.ProgressDeadlineSeconds = new(int32)
		*d.Spec.ProgressDeadlineSeconds = 1
	})
	w.Await(t, "the deadline", func() bool {
		d := w.get()
		return progress(d) == "ProgressDeadlineExceeded" && d.Status.UnavailableReplicas == 1
	})
	for _, c := range w.get().Status.Conditions {
		if c.Type == appsv1.DeploymentAvailable && (c.Status != corev1.ConditionFalse || c.Reason != "MinimumReplicasUnavailable") {
			t.Errorf("available: %+v", c)
		}
		if c.Type == appsv1.DeploymentProgressing && !strings.HasSuffix(c.Message, "has timed out progressing.") {
			t.Errorf("progressing: %+v", c)
		}
	}
}

// A ReplicaSet of the name that the hash gives, which is another's, is left alone.
func TestCollision(t *testing.T) {
	w := start(t)
	w.Kubelet(t, "app=web")
	w.create(1, "", nil)
	w.complete()
	first := w.sets()["hello"].Name
	background := metav1.DeletePropagationOrphan
	if err := w.Client.AppsV1().Deployments(ns).Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	// No garbage collector runs: the ReplicaSet stays as one of a Deployment that is gone.
	_, err := w.Client.AppsV1().Deployments(ns).Patch(t.Context(), "web", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.create(1, "", nil)
	d := w.complete()
	if d.Status.CollisionCount == nil || *d.Status.CollisionCount != 1 {
		t.Errorf("collision count %v", d.Status.CollisionCount)
	}
	list, err := w.Client.AppsV1().ReplicaSets(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 || list.Items[0].Name == list.Items[1].Name || list.Items[0].Name != first && list.Items[1].Name != first {
		t.Errorf("ReplicaSets %v, %v", list.Items, err)
	}
}
