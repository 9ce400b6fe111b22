package volumeprotection_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/volumeprotection"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

func start(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, volumeprotection.NewClaims, volumeprotection.NewVolumes)
	w.Watch(t, w.Informers.Core().V1().PersistentVolumes().Informer())
	w.Watch(t, w.Informers.Core().V1().PersistentVolumeClaims().Informer())
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	return w
}

// claim makes a claim and waits until it is protected.
func claim(t *testing.T, w *controltest.World, name string) *corev1.PersistentVolumeClaim {
	t.Helper()
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	if _, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, name+" to be protected", func() bool {
		var err error
		c, err = w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && slices.Contains(c.Finalizers, "kubernetes.io/pvc-protection")
	})
	return c
}

func remove(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	if err := w.Client.CoreV1().PersistentVolumeClaims(ns).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func gone(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	w.Await(t, name+" to be gone", func() bool {
		_, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// pod makes a Pod with a volume, on a node if that is named.
func pod(t *testing.T, w *controltest.World, name, node string, source corev1.VolumeSource) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: controltest.Template(nil).Spec}
	p.Spec.NodeName, p.Spec.TerminationGracePeriodSeconds = node, ptr.To[int64](30)
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: source}}
	p, err := w.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func of(claim string) corev1.VolumeSource {
	return corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claim}}
}

func TestAClaimStaysWhileAPodUsesIt(t *testing.T) {
	w := start(t)
	claim(t, w, "data")
	pod(t, w, "one", "n1", of("data"))
	pod(t, w, "two", "n1", of("data"))
	remove(t, w, "data")
	w.DeletePod(t, "one")
	// What comes after it in the queue is through when this is: nothing has taken the claim.
	claim(t, w, "other")
	remove(t, w, "other")
	gone(t, w, "other")
	c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil || c.DeletionTimestamp == nil {
		t.Fatalf("the claim is used and should be terminating: %+v, %v", c, err)
	}
	w.DeletePod(t, "two")
	gone(t, w, "data")
}

func TestAPodOnNoNodeHoldsNoClaim(t *testing.T) {
	w := start(t)
	claim(t, w, "data")
	pod(t, w, "waits", "", of("data"))
	remove(t, w, "data")
	gone(t, w, "data")
}

// A Pod that has ended still holds its claim, as it may be looked into; one that the kubelet is through with does not hold
// what was made for it, even if its own finalizers keep it.
func TestTheClaimOfAnEphemeralVolume(t *testing.T) {
	w := start(t)
	template := &corev1.PersistentVolumeClaimTemplate{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}}}
	p := pod(t, w, "job", "n1", corev1.VolumeSource{Ephemeral: &corev1.EphemeralVolumeSource{VolumeClaimTemplate: template}})
	p.Finalizers = []string{"example.com/waits"}
	p, err := w.Client.CoreV1().Pods(ns).Update(t.Context(), p, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c := claim(t, w, "job-v")
	c.OwnerReferences = []metav1.OwnerReference{*metav1.NewControllerRef(p, corev1.SchemeGroupVersion.WithKind("Pod"))}
	if _, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove(t, w, "job-v")
	claim(t, w, "other")
	remove(t, w, "other")
	gone(t, w, "other")
	if _, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "job-v", metav1.GetOptions{}); err != nil {
		t.Fatalf("the claim is used: %v", err)
	}
	w.DeletePod(t, "job")
	gone(t, w, "job-v")
}

func TestABoundVolumeStays(t *testing.T) {
	w := start(t)
	volumes := w.Client.CoreV1().PersistentVolumes()
	v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "disk"}, Spec: corev1.PersistentVolumeSpec{
		Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}}}}
	if _, err := volumes.Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the volume to be protected", func() bool {
		var err error
		v, err = volumes.Get(t.Context(), "disk", metav1.GetOptions{})
		return err == nil && slices.Contains(v.Finalizers, "kubernetes.io/pv-protection")
	})
	v.Status.Phase = corev1.VolumeBound
	v, err := volumes.UpdateStatus(t.Context(), v, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the binding to be seen", func() bool {
		seen, err := w.Informers.Core().V1().PersistentVolumes().Lister().Get("disk")
		return err == nil && seen.Status.Phase == corev1.VolumeBound
	})
	if err := volumes.Delete(t.Context(), "disk", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the deletion to be seen", func() bool {
		v, err = w.Informers.Core().V1().PersistentVolumes().Lister().Get("disk")
		return err == nil && v.DeletionTimestamp != nil
	})
	v = v.DeepCopy()
	v.Status.Phase = corev1.VolumeReleased
	if _, err := volumes.UpdateStatus(t.Context(), v, metav1.UpdateOptions{}); err != nil {
		t.Fatalf("the volume did not stay while it was bound: %v", err)
	}
	w.Await(t, "the volume to be gone", func() bool {
		_, err := volumes.Get(t.Context(), "disk", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}
