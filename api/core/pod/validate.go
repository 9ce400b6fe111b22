package pod

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

var (
	metaPath        = field.NewPath("metadata")
	annotationsPath = metaPath.Child("annotations")
	specPath        = field.NewPath("spec")
	statusPath      = field.NewPath("status")
)

// Default implements resource.Defaulter.
func (kind) Default(p *corev1.Pod) { podspec.DefaultPod(p) }

// Validate implements resource.Validator.
func (kind) Validate(_ context.Context, p *corev1.Pod) field.ErrorList {
	errs := validate(p, nil)
	if len(p.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if p.Spec.NodeName != "" && len(p.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(specPath.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, podspec.ValidateProfileAnnotations(&p.ObjectMeta, &p.Spec, specPath)...)
}

// validate checks what must hold for every Pod that is written; old is nil on create.
func validate(p, old *corev1.Pod) field.ErrorList {
	o := options(p, old)
	errs := v.Finalizers(p.Finalizers, metaPath.Child("finalizers"))
	errs = append(errs, podspec.ValidateAnnotations(p.Annotations, &p.Spec, annotationsPath, o)...)
	return append(errs, podspec.ValidateSpec(&p.Spec, specPath, o)...)
}

func options(p, old *corev1.Pod) podspec.Options {
	o := podspec.Options{Pod: true, Meta: &p.ObjectMeta}
	if old != nil {
		o.Old, o.OldMeta = &old.Spec, &old.ObjectMeta
	}
	return o
}
