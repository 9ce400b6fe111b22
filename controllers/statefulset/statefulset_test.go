package statefulset_test

import (
	"slices"
	"strings"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/statefulset"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

var db = map[string]string{"app": "db"}

func start(t *testing.T, change func(*appsv1.StatefulSetSpec)) *controltest.World {
	t.Helper()
	w := controltest.Start(t, statefulset.New)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.Watch(t, w.Informers.Apps().V1().StatefulSets().Informer())
	set := &appsv1.StatefulSet{ObjectMeta: metav1.ObjectMeta{Name: "db", Namespace: ns}, Spec: appsv1.StatefulSetSpec{
		Replicas: ptr.To[int32](3), ServiceName: "db", Selector: &metav1.LabelSelector{MatchLabels: db}, Template: controltest.Template(db)}}
	change(&set.Spec)
	if _, err := w.Client.AppsV1().StatefulSets(ns).Create(t.Context(), set, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	return w
}

func patch(t *testing.T, w *controltest.World, body string) {
	t.Helper()
	if _, err := w.Client.AppsV1().StatefulSets(ns).Patch(t.Context(), "db", types.StrategicMergePatchType, []byte(body), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
}

const newImage = `{"spec":{"template":{"spec":{"containers":[{"name":"main","image":"hello:2"}]}}}}`

// pods tells of the Pods with their images.
func tell(t *testing.T, w *controltest.World) string {
	t.Helper()
	var out []string
	for _, p := range w.Pods(t, "app=db") {
		out = append(out, p.Name+"="+p.Spec.Containers[0].Image)
	}
	slices.Sort(out)
	return strings.Join(out, " ")
}

func await(t *testing.T, w *controltest.World, want string) {
	t.Helper()
	w.Await(t, want, func() bool {
		set, err := w.Client.AppsV1().StatefulSets(ns).Get(t.Context(), "db", metav1.GetOptions{})
		return err == nil && tell(t, w) == want && set.Status.ObservedGeneration == set.Generation && int(set.Status.AvailableReplicas) == strings.Count(want, "=")
	})
}

func TestOneAfterTheOther(t *testing.T) {
	w := start(t, func(*appsv1.StatefulSetSpec) {})
	for _, name := range []string{"db-0", "db-1", "db-2"} {
		w.Await(t, name, func() bool { return strings.Contains(tell(t, w), name) })
		list := w.Pods(t, "app=db")
		last := list[len(list)-1]
		if last.Name != name || last.Spec.Hostname != name || last.Spec.Subdomain != "db" || last.Labels["apps.kubernetes.io/pod-index"] != name[3:] {
			t.Errorf("the last Pod is %s: %+v", last.Name, last.Labels)
		}
		w.SetPhase(t, &last, corev1.PodRunning)
	}
	await(t, w, "db-0=hello db-1=hello db-2=hello")
	w.Event(t, "db", "SuccessfulCreate", "Create Pod db-0 in StatefulSet db successful")
	w.Kubelet(t, "app=db")
	patch(t, w, newImage)
	await(t, w, "db-0=hello:2 db-1=hello:2 db-2=hello:2")
	w.Await(t, "the update to be over", func() bool {
		set, err := w.Client.AppsV1().StatefulSets(ns).Get(t.Context(), "db", metav1.GetOptions{})
		return err == nil && set.Status.CurrentRevision == set.Status.UpdateRevision && set.Status.CurrentReplicas == 3 && set.Status.UpdatedReplicas == 3
	})
	patch(t, w, `{"spec":{"replicas":1}}`)
	await(t, w, "db-0=hello:2")
}

func TestPartitionAndStart(t *testing.T) {
	w := start(t, func(s *appsv1.StatefulSetSpec) {
		s.PodManagementPolicy = appsv1.ParallelPodManagement
		s.Ordinals = &appsv1.StatefulSetOrdinals{Start: 5}
		s.UpdateStrategy = appsv1.StatefulSetUpdateStrategy{Type: appsv1.RollingUpdateStatefulSetStrategyType,
			RollingUpdate: &appsv1.RollingUpdateStatefulSetStrategy{Partition: ptr.To[int32](2)}}
	})
	w.Kubelet(t, "app=db")
	await(t, w, "db-5=hello db-6=hello db-7=hello")
	patch(t, w, newImage)
	await(t, w, "db-5=hello db-6=hello db-7=hello:2")
	w.DeletePod(t, "db-5") // comes back as it was
	await(t, w, "db-5=hello db-6=hello db-7=hello:2")
	patch(t, w, `{"spec":{"updateStrategy":{"rollingUpdate":{"partition":0}}}}`)
	await(t, w, "db-5=hello:2 db-6=hello:2 db-7=hello:2")
}
