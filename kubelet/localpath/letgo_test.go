package localpath

import (
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/internal/localpath"
)

// TestLetGoOfWhatChanged: what another took off a volume meanwhile does not come back, and the next version is let go.
func TestLetGoOfWhatChanged(t *testing.T) {
	client := servertest.Start(t, nil).Client(t)
	volumes := client.CoreV1().PersistentVolumes()
	k := New(Config{Client: client, NodeName: "n1", Dir: t.TempDir()})
	shown, err := volumes.Create(t.Context(), &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{Name: "v", Finalizers: []string{"example.com/other", localpath.Finalizer}},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:               corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
			AccessModes:            []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
			PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/v"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := volumes.Delete(t.Context(), "v", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	_, err = volumes.Patch(t.Context(), "v", types.JSONPatchType, []byte(`[{"op":"remove","path":"/metadata/finalizers/0"}]`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := k.letGo(t.Context(), shown); err != nil {
		t.Errorf("by an old version: %v", err)
	}
	now, err := volumes.Get(t.Context(), "v", metav1.GetOptions{})
	if err != nil || !slices.Equal(now.Finalizers, []string{localpath.Finalizer}) {
		t.Fatalf("after that: %v, %v", now, err)
	}
	if err := k.letGo(t.Context(), now); err != nil {
		t.Fatal(err)
	}
	if _, err := volumes.Get(t.Context(), "v", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("the volume is still there: %v", err)
	}
}
