package localpath_test

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/claimgrowth"
)

func growing(s *storagev1.StorageClass) { s.AllowVolumeExpansion = ptr.To(true) }

// ask has a bound claim ask for another size.
func (w *world) ask(name, size string) error {
	body := `{"spec":{"resources":{"requests":{"storage":"` + size + `"}}}}`
	_, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Patch(w.t.Context(), name, types.MergePatchType, []byte(body), metav1.PatchOptions{})
	return err
}

// grown waits until the claim has that size, and returns it.
func (w *world) grown(name, size string) *corev1.PersistentVolumeClaim {
	w.t.Helper()
	var c *corev1.PersistentVolumeClaim
	w.Await(w.t, name+" to have "+size, func() bool {
		var err error
		c, err = w.Client.CoreV1().PersistentVolumeClaims(ns).Get(w.t.Context(), name, metav1.GetOptions{})
		return err == nil && c.Status.Capacity.Storage().Cmp(resource.MustParse(size)) == 0
	})
	return c
}

// settled reports a claim whose growth is not over.
func (w *world) settled(c *corev1.PersistentVolumeClaim, allocated string) {
	w.t.Helper()
	if claimgrowth.Stage(c) != "" || len(c.Status.Conditions) != 0 || c.Status.AllocatedResources.Storage().Cmp(resource.MustParse(allocated)) != 0 {
		w.t.Errorf("after growth the status is %+v", c.Status)
	}
}

func TestAClaimGrows(t *testing.T) {
	w := start(t, growing)
	w.node("n1", at("/srv/one"))
	w.claim("data", "n1", nil)
	name := w.bound("data").Name
	for _, size := range []string{"2Gi", "2500Mi"} { // twice: what the first leaves does not hinder the second
		if err := w.ask("data", size); err != nil {
			t.Fatal(err)
		}
		c := w.grown("data", size)
		w.settled(c, size)
		if v := w.bound("data"); v.Name != name || v.Spec.Capacity.Storage().Cmp(resource.MustParse(size)) != 0 {
			t.Errorf("volume %s has %v", v.Name, v.Spec.Capacity)
		}
	}
	w.says("data", claimgrowth.ReasonResizing, "External resizer is resizing volume "+name)
	w.says("data", claimgrowth.ReasonResized, "Resize volume succeeded")
	if err := w.ask("data", "1Gi"); !apierrors.IsInvalid(err) {
		t.Errorf("shrinking: %v", err)
	}
}

// What a controller that was stopped has left undone is finished, to the size that was begun with, before the next begins.
func TestGrowthGoesOn(t *testing.T) {
	w := start(t, growing)
	w.node("n1", at("/srv/one"))
	w.claim("data", "n1", nil)
	v := w.bound("data")
	// The claim is told to have grown to 3Gi by somebody who then stops; the request is what brings it here.
	c, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Get(t.Context(), "data", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	begun := c.DeepCopy()
	claimgrowth.Begin(begun, resource.MustParse("3Gi"))
	if _, err := claimgrowth.Write(t.Context(), w.Client, c, begun); err != nil {
		t.Fatal(err)
	}
	changes, err := w.Client.CoreV1().PersistentVolumeClaims(ns).Watch(t.Context(), metav1.ListOptions{ResourceVersion: c.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer changes.Stop()
	if err := w.ask("data", "4Gi"); err != nil {
		t.Fatal(err)
	}
	w.settled(w.grown("data", "4Gi"), "4Gi")
	for had := ""; had != "3Gi"; {
		c, ok := (<-changes.ResultChan()).Object.(*corev1.PersistentVolumeClaim)
		if !ok {
			t.Fatal("the watch ended")
		}
		if had = c.Status.Capacity.Storage().String(); had == "4Gi" {
			t.Fatal("what was begun was not finished")
		}
	}
	if got := w.bound("data"); got.Name != v.Name || got.Spec.Capacity.Storage().String() != "4Gi" {
		t.Errorf("volume %s has %v", got.Name, got.Spec.Capacity)
	}
}

// A volume that is larger than what is asked for stays so, and the claim has all of it.
func TestAVolumeDoesNotShrink(t *testing.T) {
	w := start(t, growing)
	w.node("n1", at("/srv/one"))
	w.claim("data", "n1", nil)
	name := w.bound("data").Name
	larger := []byte(`{"spec":{"capacity":{"storage":"5Gi"}}}`)
	if _, err := w.Client.CoreV1().PersistentVolumes().Patch(t.Context(), name, types.MergePatchType, larger, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := w.ask("data", "2Gi"); err != nil {
		t.Fatal(err)
	}
	w.grown("data", "5Gi")
	if v := w.bound("data"); v.Spec.Capacity.Storage().String() != "5Gi" {
		t.Errorf("volume has %v", v.Spec.Capacity)
	}
}
