package namespace

import (
	"context"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Validate checks the finalizers.
func (kind) Validate(_ context.Context, obj *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	for _, name := range obj.Spec.Finalizers {
		errs = append(errs, validateFinalizer(string(name), field.NewPath("spec", "finalizers"))...)
	}
	return errs
}

// ValidateUpdate has nothing to check: the finalizers are the old ones, and the rest is metadata.
func (kind) ValidateUpdate(context.Context, *corev1.Namespace, *corev1.Namespace) field.ErrorList {
	return nil
}

// ValidateStatusUpdate ties the phase to whether the Namespace is being deleted.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	switch {
	case obj.DeletionTimestamp.IsZero() && obj.Status.Phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, obj.Status.Phase,
			"may only be 'Active' if `deletionTimestamp` is empty")}
	case !obj.DeletionTimestamp.IsZero() && obj.Status.Phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, obj.Status.Phase,
			"may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

func validateFinalizeUpdate(obj *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "finalizers")
	for i, name := range obj.Spec.Finalizers {
		errs = append(errs, validateFinalizer(string(name), path.Index(i))...)
	}
	return errs
}

// validateFinalizer takes the few finalizers that Kubernetes itself knows and every fully qualified name.
func validateFinalizer(name string, path *field.Path) field.ErrorList {
	errs := apivalidation.ValidateFinalizerName(name, path)
	if strings.Contains(name, "/") {
		return errs
	}
	switch name {
	case string(corev1.FinalizerKubernetes), metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents:
	default:
		errs = append(errs, field.Invalid(path, name,
			"name is neither a standard finalizer name nor is it fully qualified"))
	}
	return errs
}
