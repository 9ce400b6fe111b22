package claimgrowth

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/apiserver/servertest"
)

// TestGrowthIsStored goes a claim's way on a real server: what each step changes, and nothing else, is stored.
func TestGrowthIsStored(t *testing.T) {
	client := servertest.Start(t, nil).Client(t)
	claims := client.CoreV1().PersistentVolumeClaims("default")
	c, err := claims.Create(t.Context(), &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Name: "data"}, Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes: []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:   corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	long := metav1.NewTime(time.Unix(1000, 0))
	other := corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimVolumeModifyingVolume, Status: corev1.ConditionTrue, LastTransitionTime: long}
	pending := corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimFileSystemResizePending, Status: corev1.ConditionTrue, LastTransitionTime: long}
	c.Status = corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound, Capacity: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")},
		Conditions: []corev1.PersistentVolumeClaimCondition{other, pending}}
	if c, err = claims.UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if !Wanted(c) {
		t.Error("a claim of 1Gi that asks for 2Gi is said to have what it wants")
	}
	first := c
	for _, step := range []struct {
		name       string
		do         func(*corev1.PersistentVolumeClaim)
		stage      corev1.ClaimResourceStatus
		conditions []corev1.PersistentVolumeClaimConditionType
		capacity   string
	}{
		{"begin", func(c *corev1.PersistentVolumeClaim) { Begin(c, resource.MustParse("2Gi")) }, "ControllerResizeInProgress",
			[]corev1.PersistentVolumeClaimConditionType{"ModifyingVolume", "Resizing"}, "1Gi"},
		{"begin on node", BeginOnNode, "NodeResizeInProgress", []corev1.PersistentVolumeClaimConditionType{"ModifyingVolume", "Resizing"}, "1Gi"},
		{"fail", func(c *corev1.PersistentVolumeClaim) { FailOnNode(c, errors.New("no room")) }, "NodeResizeInProgress",
			[]corev1.PersistentVolumeClaimConditionType{"ModifyingVolume", "Resizing", "NodeResizeError"}, "1Gi"},
		{"finish", func(c *corev1.PersistentVolumeClaim) { Finish(c, resource.MustParse("2Gi")) }, "",
			[]corev1.PersistentVolumeClaimConditionType{"ModifyingVolume"}, "2Gi"},
	} {
		now := c.DeepCopy()
		step.do(now)
		if c, err = Write(t.Context(), client, c, now); err != nil {
			t.Fatalf("%s: %v", step.name, err)
		}
		var got []corev1.PersistentVolumeClaimConditionType
		for _, cond := range c.Status.Conditions {
			got = append(got, cond.Type)
			if cond.Type == other.Type && !cond.LastTransitionTime.Equal(&long) {
				t.Errorf("%s: another's condition is of %v", step.name, cond.LastTransitionTime)
			}
			if cond.Type == corev1.PersistentVolumeClaimNodeResizeError && cond.Message != "failed to expand pvc with no room" {
				t.Errorf("%s: message %q", step.name, cond.Message)
			}
		}
		same := len(got) == len(step.conditions)
		for _, want := range step.conditions {
			same = same && hasType(c, want)
		}
		if Stage(c) != step.stage || !same || c.Status.Capacity.Storage().String() != step.capacity {
			t.Errorf("%s: stage %q, conditions %v, capacity %v", step.name, Stage(c), got, c.Status.Capacity)
		}
	}
	if Wanted(c) || c.Status.AllocatedResources.Storage().String() != "2Gi" || c.Status.Phase != corev1.ClaimBound {
		t.Errorf("after it all: %+v", c.Status)
	}
	late := first.DeepCopy()
	Finish(late, resource.MustParse("9Gi"))
	if _, err := Write(t.Context(), client, first, late); !apierrors.IsConflict(err) {
		t.Errorf("one who knows only what was writes: %v", err)
	}
}

func hasType(c *corev1.PersistentVolumeClaim, want corev1.PersistentVolumeClaimConditionType) bool {
	for _, cond := range c.Status.Conditions {
		if cond.Type == want {
			return true
		}
	}
	return false
}
