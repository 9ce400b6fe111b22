package volumeexpand_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/persistentvolume"
	"github.com/peapod/peapod/controllers/volumeexpand"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

// TestAClaimThatGrowsIsAnswered has two claims grow, of which one is on a CSI volume.
func TestAClaimThatGrowsIsAnswered(t *testing.T) {
	w := controltest.Start(t, persistentvolume.New, volumeexpand.New)
	w.Watch(t, w.Informers.Core().V1().PersistentVolumeClaims().Informer())
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	for name, c := range map[string]struct {
		source corev1.PersistentVolumeSource
		want   string
	}{
		"csi": {corev1.PersistentVolumeSource{CSI: &corev1.CSIPersistentVolumeSource{Driver: "example.com", VolumeHandle: "v"}},
			"waiting for an external controller to expand this PVC"},
		"plain": {corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data"}},
			"Ignoring the PVC: didn't find a plugin capable of expanding the volume; waiting for an external controller to process this PVC."},
	} {
		v := &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.PersistentVolumeSpec{Capacity: size, AccessModes: modes, PersistentVolumeSource: c.source}}
		if _, err := w.Client.CoreV1().PersistentVolumes().Create(t.Context(), v, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeClaimSpec{
			AccessModes: modes, StorageClassName: ptr.To(""), VolumeName: name, Resources: corev1.VolumeResourceRequirements{Requests: size}}}
		if _, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		w.Await(t, name+" to be bound", func() bool {
			shown, err := w.Informers.Core().V1().PersistentVolumeClaims().Lister().PersistentVolumeClaims(ns).Get(name)
			return err == nil && shown.Status.Phase == corev1.ClaimBound
		})
		grow := []byte(`{"spec":{"resources":{"requests":{"storage":"2Gi"}}}}`)
		if _, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Patch(t.Context(), name, types.MergePatchType, grow, metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
		w.Event(t, name, "ExternalExpanding", c.want)
		// Its size is what it was: whoever makes the volume grow writes the new one.
		shown, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil || shown.Status.Capacity.Storage().String() != "1Gi" {
			t.Errorf("capacity is %v, %v", shown.Status.Capacity, err)
		}
	}
}
