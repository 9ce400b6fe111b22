package pod

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
)

// PrepareForEphemeralContainers makes p, which is written to the ephemeralcontainers subresource, differ from old in its
// ephemeral containers alone. It raises the generation if they differ.
func PrepareForEphemeralContainers(p, old *corev1.Pod) {
	added := p.Spec.EphemeralContainers
	keepAllButSpec(p, old)
	p.Spec = old.Spec
	p.Spec.EphemeralContainers = added
	podspec.DropDisabledFields(&p.Spec, &old.Spec)
	raiseGeneration(p, old)
}

// ValidateEphemeralContainers checks a write to the ephemeralcontainers subresource: what is there stays as it is.
func ValidateEphemeralContainers(p, old *corev1.Pod) field.ErrorList {
	errs := validate(p, old)
	errs = append(errs, validateAnnotationsUpdate(p, old)...)
	if _, mirror := old.Annotations[corev1.MirrorPodAnnotationKey]; mirror {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	path := specPath.Child("ephemeralContainers")
	byName := map[string]*corev1.EphemeralContainer{}
	for i := range p.Spec.EphemeralContainers {
		byName[p.Spec.EphemeralContainers[i].Name] = &p.Spec.EphemeralContainers[i]
	}
	for i := range old.Spec.EphemeralContainers {
		was := &old.Spec.EphemeralContainers[i]
		if is := byName[was.Name]; is == nil {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		} else if !apiequality.Semantic.DeepEqual(*was, *is) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v",
				was.Name, diff.Diff(*was, *is))))
		}
	}
	return errs
}

// keepAllButSpec gives p the status and metadata of old; what managedFields says of the write stays.
func keepAllButSpec(p, old *corev1.Pod) {
	p.Status = old.Status
	metav1.ResetObjectMetaForStatus(&p.ObjectMeta, &old.ObjectMeta)
}

// raiseGeneration is for the subresources that write the spec.
func raiseGeneration(p, old *corev1.Pod) {
	if !apiequality.Semantic.DeepEqual(p.Spec, old.Spec) {
		p.Generation = old.Generation + 1
	}
}
