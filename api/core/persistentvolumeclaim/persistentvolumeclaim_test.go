package persistentvolumeclaim

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }

// The differences are shown, in a form that is not the same each time.
func TestWhatDoesNotChangeIsShown(t *testing.T) {
	old := &corev1.PersistentVolumeClaim{}
	old.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	old.Spec.Resources.Requests = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	changed := old.DeepCopy()
	changed.Spec.AccessModes[0] = corev1.ReadOnlyMany
	changed.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("2Gi")
	errs := kind{}.ValidateUpdate(t.Context(), changed, old)
	if len(errs) != 1 || errs[0].Field != "spec" || !strings.Contains(errs[0].Detail, "spec is immutable after creation except resources.requests") ||
		!strings.Contains(errs[0].Detail, "ReadOnlyMany") || !strings.Contains(errs[0].Detail, "2Gi") {
		t.Error(errs)
	}
}

func TestAClaimThatWaitsForItsVolumeKeepsItsClass(t *testing.T) {
	old := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		AccessModes:               []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce},
		Resources:                 corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}},
		VolumeAttributesClassName: ptr.To("gold"),
	}}
	changed := old.DeepCopy()
	changed.Spec.VolumeAttributesClassName = ptr.To("silver")
	for phase, allowed := range map[corev1.PersistentVolumeClaimPhase]bool{corev1.ClaimPending: false, corev1.ClaimBound: true} {
		old.Status.Phase, changed.Status.Phase = phase, phase
		errs := (kind{}).ValidateUpdate(t.Context(), changed, old)
		refused := len(errs) == 1 && strings.Contains(errs[0].Error(),
			"spec: Forbidden: spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims")
		if allowed != (len(errs) == 0) || allowed == refused {
			t.Errorf("a claim that is %s: %v", phase, errs)
		}
	}
}
