package persistentvolume_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/test/controltest"
)

// recycler waits for the Pod that empties the volume, other than the one of a UID.
func (w *world) recycler(volume string, but types.UID) *corev1.Pod {
	w.t.Helper()
	var p *corev1.Pod
	w.Await(w.t, "a recycler for "+volume, func() bool {
		var err error
		p, err = w.Client.CoreV1().Pods("default").Get(w.t.Context(), "recycler-for-"+volume, metav1.GetOptions{})
		return err == nil && p.UID != but
	})
	return p
}

// dirty is a volume that is to be recycled, after its claim has gone.
func (w *world) dirty(name, size string) {
	w.t.Helper()
	w.volume(name, size, func(v *corev1.PersistentVolume) {
		v.Spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRecycle
	})
	w.claim(name, size, nil)
	w.bound(name)
	w.deleteClaim(name)
}

func TestAVolumeIsRecycled(t *testing.T) {
	w := start(t)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.dirty("used", "3Gi")
	p := w.recycler("used", "")
	if *p.Spec.ActiveDeadlineSeconds != 90 || p.Spec.RestartPolicy != corev1.RestartPolicyNever || p.Spec.Volumes[0].HostPath.Path != "/data/used" {
		t.Errorf("recycler is %+v", p.Spec)
	}
	w.SetPhase(t, p, corev1.PodSucceeded)
	w.says("used", "VolumeRecycled", "Volume recycled")
	v := w.volumePhase("used", corev1.VolumeAvailable)
	if v.Spec.ClaimRef != nil {
		t.Errorf("the volume is %v's", v.Spec.ClaimRef)
	}
	w.Await(t, "the recycler to go", func() bool {
		_, err := w.Client.CoreV1().Pods("default").Get(t.Context(), p.Name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	w.claim("next", "3Gi", nil)
	if got := w.bound("next"); got != "used" {
		t.Errorf("the next claim has %q", got)
	}
	// It is the next one's now: nothing empties it.
	if list, err := w.Client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("%d Pods, %v", len(list.Items), err)
	}
}

func TestARecyclerThatFails(t *testing.T) {
	w := start(t)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	w.dirty("used", "1Gi")
	w.SetPhase(t, w.recycler("used", ""), corev1.PodFailed)
	const why = "Recycle failed: failed to recycle volume: pod failed, pod.Status.Message unknown"
	w.says("used", "VolumeFailedRecycle", why)
	if v := w.volumePhase("used", corev1.VolumeFailed); v.Status.Message != why {
		t.Errorf("the volume says %q", v.Status.Message)
	}
}

// TestAForgedRecycler: a Pod of that name that somebody else has made is not believed.
func TestAForgedRecycler(t *testing.T) {
	w := start(t)
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	forged := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "recycler-for-used"}, Spec: controltest.Template(nil).Spec}
	forged, err := w.Client.CoreV1().Pods("default").Create(t.Context(), forged, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.SetPhase(t, forged, corev1.PodSucceeded)
	w.dirty("used", "1Gi")
	w.recycler("used", forged.UID)
	w.volumePhase("used", corev1.VolumeReleased)
}

// TestAVolumeInUseIsNotRecycled: a Pod has it still, though its claim is gone.
func TestAVolumeInUseIsNotRecycled(t *testing.T) {
	w := start(t)
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "user"}, Spec: controltest.Template(nil).Spec}
	p.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "used"}}}}
	if _, err := w.Client.CoreV1().Pods("default").Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.dirty("used", "1Gi")
	w.says("used", "VolumeFailedRecycle", "Volume is used by pods: default/user")
	if _, err := w.Client.CoreV1().Pods("default").Get(t.Context(), "recycler-for-used", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a recycler is there: %v", err)
	}
}
