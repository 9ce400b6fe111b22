package persistentvolume

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/controllers/engine"
)

// A claim that was bound, which the informers do not show yet, is not given a second volume.
func TestClaimIsBoundOnce(t *testing.T) {
	core := servertest.Start(t, nil).Client(t)
	c, err := newController(engine.Deps{Client: core, Recorder: &record.FakeRecorder{}, Informers: informers.NewSharedInformerFactory(core, 0)})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(err)
	volumes, claims := core.CoreV1().PersistentVolumes(), core.CoreV1().PersistentVolumeClaims("default")
	size := corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	modes := []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	claim, err := claims.Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: modes, StorageClassName: ptr.To(""), Resources: corev1.VolumeResourceRequirements{Requests: size}}}, metav1.CreateOptions{})
	must(err)
	must(c.claimIndex.Add(claim))
	// Of several that fit any may be taken, so that a second look would hardly find the same.
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h"} {
		v, err := volumes.Create(t.Context(), &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.PersistentVolumeSpec{
			Capacity: size, AccessModes: modes, PersistentVolumeSource: corev1.PersistentVolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/data/" + name}}}}, metav1.CreateOptions{})
		must(err)
		v.Status.Phase = corev1.VolumeAvailable
		v, err = volumes.UpdateStatus(t.Context(), v, metav1.UpdateOptions{})
		must(err)
		must(c.volumeIndex.Add(v))
	}
	look := func() {
		t.Helper()
		must(c.sync(t.Context(), key{false, cache.MetaObjectToName(claim)}))
	}
	taken := func() (names []string) {
		t.Helper()
		list, err := volumes.List(t.Context(), metav1.ListOptions{})
		must(err)
		for _, v := range list.Items {
			if v.Spec.ClaimRef != nil {
				names = append(names, v.Name)
			}
		}
		return names
	}
	look()
	for range 5 {
		_ = c.sync(t.Context(), key{false, cache.MetaObjectToName(claim)}) // a second binding ends with a conflict
	}
	now, err := claims.Get(t.Context(), "data", metav1.GetOptions{})
	must(err)
	if names := taken(); len(names) != 1 || now.Spec.VolumeName != names[0] || now.Status.Phase != corev1.ClaimBound {
		t.Errorf("the claim has %v, and names %s", names, now.Spec.VolumeName)
	}
	must(c.claimIndex.Update(now))
	look()
	if len(c.written) != 1 {
		t.Errorf("while the volume is not seen: %v", c.written)
	}
	v, err := volumes.Get(t.Context(), now.Spec.VolumeName, metav1.GetOptions{})
	must(err)
	must(c.volumeIndex.Update(v))
	look()
	if len(c.written) != 0 {
		t.Errorf("when all is seen: %v", c.written)
	}
}
