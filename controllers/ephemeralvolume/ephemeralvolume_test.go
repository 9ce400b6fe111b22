package ephemeralvolume_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/controllers/ephemeralvolume"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

func claimSpec() corev1.PersistentVolumeClaimSpec {
	return corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}
}

func start(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, ephemeralvolume.New)
	w.Watch(t, w.Informers.Core().V1().PersistentVolumeClaims().Informer())
	return w
}

func pod(t *testing.T, w *controltest.World, name string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: controltest.Template(nil).Spec}
	p.Spec.Volumes = []corev1.Volume{
		{Name: "plain", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}}},
		{Name: "scratch", VolumeSource: corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{
			VolumeClaimTemplate: &corev1.PersistentVolumeClaimTemplate{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}, Spec: claimSpec()}}}},
	}
	p, err := w.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func made(t *testing.T, w *controltest.World, name string, other types.UID) *corev1.PersistentVolumeClaim {
	t.Helper()
	var c *corev1.PersistentVolumeClaim
	w.Await(t, "claim "+name, func() bool {
		var err error
		c, err = w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && c.UID != other
	})
	return c
}

func TestAClaimIsMadeForThePod(t *testing.T) {
	w := start(t)
	p := pod(t, w, "web")
	c := made(t, w, "web-scratch", "")
	if !metav1.IsControlledBy(c, p) || c.Labels["a"] != "b" || c.Annotations["c"] != "d" || c.Spec.Resources.Requests.Storage().String() != "1Gi" {
		t.Errorf("made %+v", c)
	}
	// Who deletes it does not leave the Pod without.
	if err := w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), c.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	made(t, w, "web-scratch", c.UID)
	list, err := w.Client.CoreV1().PersistentVolumeClaims(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 {
		t.Errorf("there are %d claims, %v", len(list.Items), err)
	}
}

// A claim that happens to have the name is not the Pod's, and is not taken over.
func TestAnothersClaimIsNotUsed(t *testing.T) {
	w := start(t)
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "db-scratch"}, Spec: claimSpec()}
	if _, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the claim to be seen", func() bool {
		_, err := w.Informers.Core().V1().PersistentVolumeClaims().Lister().PersistentVolumeClaims(ns).Get("db-scratch")
		return err == nil
	})
	pod(t, w, "db")
	want := "ephemeral volume scratch: PVC default/db-scratch was not created for pod default/db (pod is not owner)"
	w.Event(t, "db", "FailedBinding", want)
	c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "db-scratch", metav1.GetOptions{})
	if err != nil || len(c.OwnerReferences) != 0 {
		t.Errorf("the claim is %+v, %v", c, err)
	}
}
