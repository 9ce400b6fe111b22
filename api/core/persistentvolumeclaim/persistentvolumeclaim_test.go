package persistentvolumeclaim

import (
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

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
