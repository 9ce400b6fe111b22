package volumeprotection_test

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/volumeprotection"
	"github.com/peapod/peapod/test/controltest"
)

func startAttributes(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, volumeprotection.NewAttributes)
	w.Watch(t, w.Informers.Core().V1().PersistentVolumes().Informer())
	w.Watch(t, w.Informers.Core().V1().PersistentVolumeClaims().Informer())
	w.Watch(t, w.Informers.Storage().V1().VolumeAttributesClasses().Informer())
	return w
}

// attributes makes a class of attributes and waits until it is protected.
func attributes(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	classes := w.Client.StorageV1().VolumeAttributesClasses()
	c := &storagev1.VolumeAttributesClass{ObjectMeta: metav1.ObjectMeta{Name: name}, DriverName: "disk.example.com",
		Parameters: map[string]string{"iops": "5000"}}
	if _, err := classes.Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, name+" to be protected", func() bool {
		c, err := classes.Get(t.Context(), name, metav1.GetOptions{})
		return err == nil && slices.Contains(c.Finalizers, "kubernetes.io/vac-protection")
	})
}

// removeAttributes deletes a class and waits until the controller has looked at that: what comes after it in the queue is through.
func removeAttributes(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	attributes(t, w, "sentinel")
	for _, name := range []string{name, "sentinel"} {
		if err := w.Client.StorageV1().VolumeAttributesClasses().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	noAttributes(t, w, "sentinel")
}

func noAttributes(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	w.Await(t, name+" to be gone", func() bool {
		_, err := w.Client.StorageV1().VolumeAttributesClasses().Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

func attributesStay(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	c, err := w.Client.StorageV1().VolumeAttributesClasses().Get(t.Context(), name, metav1.GetOptions{})
	if err != nil || c.DeletionTimestamp == nil {
		t.Fatalf("the class is used and should be terminating: %+v, %v", c, err)
	}
}

func TestAttributesThatNobodyUsesGo(t *testing.T) {
	w := startAttributes(t)
	attributes(t, w, "gold")
	removeAttributes(t, w, "gold")
	noAttributes(t, w, "gold")
}

// A claim holds the class that it wants, the one that it has, and the one that its volume is being changed to.
func TestAttributesStayWhileAClaimNamesThem(t *testing.T) {
	w := startAttributes(t)
	claims := w.Client.CoreV1().PersistentVolumeClaims(ns)
	c := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes:               []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:                 corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		VolumeName:                "disk",
		VolumeAttributesClassName: ptr.To("wanted"),
	}}
	c, err := claims.Create(t.Context(), c, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Status.Phase = corev1.ClaimBound
	c.Status.CurrentVolumeAttributesClassName = ptr.To("had")
	c.Status.ModifyVolumeStatus = &corev1.ModifyVolumeStatus{TargetVolumeAttributesClassName: "coming", Status: corev1.PersistentVolumeClaimModifyVolumeInProgress}
	if c, err = claims.UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"wanted", "had", "coming"} {
		attributes(t, w, name)
		removeAttributes(t, w, name)
		attributesStay(t, w, name)
	}

	c.Spec.VolumeAttributesClassName = ptr.To("other")
	if c, err = claims.Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	noAttributes(t, w, "wanted")
	attributesStay(t, w, "had")
	c.Status.CurrentVolumeAttributesClassName = ptr.To("other")
	if _, err = claims.UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	noAttributes(t, w, "had")
	attributesStay(t, w, "coming")
	if err := claims.Delete(t.Context(), "data", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	noAttributes(t, w, "coming")
}

func TestAttributesStayWhileAVolumeNamesThem(t *testing.T) {
	w := startAttributes(t)
	volumes := w.Client.CoreV1().PersistentVolumes()
	for _, name := range []string{"one", "two"} {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			Capacity:                  corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:               []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			VolumeAttributesClassName: ptr.To("gold"),
			PersistentVolumeSource:    corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "disk.example.com", VolumeHandle: name}}}}
		if _, err := volumes.Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	attributes(t, w, "gold")
	removeAttributes(t, w, "gold")
	if err := volumes.Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	attributesStay(t, w, "gold")
	v, err := volumes.Get(t.Context(), "two", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	v.Spec.VolumeAttributesClassName = ptr.To("silver")
	if _, err := volumes.Update(t.Context(), v, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	noAttributes(t, w, "gold")
}
