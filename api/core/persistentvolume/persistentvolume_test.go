package persistentvolume

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
	old := &corev1.PersistentVolume{}
	old.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	old.Spec.Capacity = corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}
	old.Spec.HostPath = &corev1.HostPathVolumeSource{Path: "/a"}
	changed := old.DeepCopy()
	changed.Spec.HostPath.Path = "/b"
	errs := kind{}.ValidateUpdate(t.Context(), changed, old)
	if len(errs) != 1 || errs[0].Field != "spec.persistentvolumesource" ||
		!strings.Contains(errs[0].Detail, "spec.persistentvolumesource is immutable after creation") || !strings.Contains(errs[0].Detail, "/b") {
		t.Error(errs)
	}
}
