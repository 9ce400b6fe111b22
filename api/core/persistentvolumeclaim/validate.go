package persistentvolumeclaim

import (
	"context"
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

var specPath = field.NewPath("spec")

// Validate checks a new claim.
func (kind) Validate(_ context.Context, obj *corev1.PersistentVolumeClaim) field.ErrorList {
	return podspec.ValidateClaimSpec(&obj.Spec, specPath)
}

// ValidateUpdate checks a changed claim. It is bound once, a class may be given to one that has none, and what is bound
// may grow.
func (kind) ValidateUpdate(_ context.Context, obj, old *corev1.PersistentVolumeClaim) field.ErrorList {
	errs := podspec.ValidateClaimSpec(&obj.Spec, specPath)
	is, was := obj.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = is.VolumeName
	}
	annotated, hadAnnotation := old.Annotations[corev1.BetaStorageClassAnnotation]
	now, hasAnnotation := obj.Annotations[corev1.BetaStorageClassAnnotation]
	given := was.StorageClassName == nil && is.StorageClassName != nil
	moved := given && hadAnnotation && *is.StorageClassName == annotated && (!hasAnnotation || now == annotated)
	if moved || given && !hadAnnotation {
		is.StorageClassName = nil
	}
	if !moved && now != annotated {
		errs = append(errs, field.Invalid(field.NewPath("metadata").Child("annotations").Key(corev1.BetaStorageClassAnnotation), now, v.Immutable))
	}
	size, had := is.Resources.Requests[corev1.ResourceStorage], was.Resources.Requests[corev1.ResourceStorage]
	if obj.Status.Phase == corev1.ClaimBound {
		if is.Resources.Requests != nil {
			is.Resources.Requests[corev1.ResourceStorage] = had
		}
		is.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	if !equality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(specPath,
			"spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n"+cmp.Diff(was, is)))
	}
	if size.Cmp(had) < 0 && size.Cmp(old.Status.Capacity[corev1.ResourceStorage]) <= 0 {
		// What could not grow so far may ask for less, and volumes do not shrink.
		errs = append(errs, field.Forbidden(specPath.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(obj.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	return append(errs, attributesClassUpdate(obj.Spec.VolumeAttributesClassName, old)...)
}

// attributesClassUpdate checks that a class of attributes is not taken away that the volume has; one that the driver could not
// give it may be.
func attributesClassUpdate(is *string, old *corev1.PersistentVolumeClaim) field.ErrorList {
	to := ""
	switch was := old.Spec.VolumeAttributesClassName; {
	case old.Status.CurrentVolumeAttributesClassName == nil, ptr.Equal(is, was):
		return nil
	case is == nil:
		to = "nil"
	case *is == "":
		to = "empty string"
	default:
		return nil
	}
	return field.ErrorList{field.Forbidden(specPath.Child("volumeAttributesClassName"),
		"update to "+to+" is forbidden when status.currentVolumeAttributesClassName is not nil")}
}

// ValidateStatusUpdate checks the amounts, and how far a volume has grown.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	if len(obj.Spec.AccessModes) == 0 {
		errs = append(errs, field.Required(field.NewPath("Spec", "accessModes"), ""))
	}
	capacity := field.NewPath("status", "capacity")
	for _, name := range slices.Sorted(maps.Keys(obj.Status.Capacity)) {
		q := obj.Status.Capacity[name]
		if q.Sign() < 0 {
			errs = append(errs, field.Invalid(capacity.Key(string(name)), q.Value(), "must be a valid resource quantity"))
		}
	}
	path := field.NewPath("status", "allocatedResourceStatus")
	for _, name := range slices.Sorted(maps.Keys(obj.Status.AllocatedResourceStatuses)) {
		errs = append(errs, resourceKey(name, path)...)
		errs = append(errs, v.Supported(obj.Status.AllocatedResourceStatuses[name], path, corev1.PersistentVolumeClaimControllerResizeInProgress,
			corev1.PersistentVolumeClaimControllerResizeInfeasible, corev1.PersistentVolumeClaimNodeResizeInfeasible,
			corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizePending)...)
	}
	path = field.NewPath("status", "allocatedResources")
	for _, name := range slices.Sorted(maps.Keys(obj.Status.AllocatedResources)) {
		if bad := resourceKey(name, path); len(bad) > 0 {
			errs = append(errs, bad...)
			continue
		}
		q := obj.Status.AllocatedResources[name]
		if q.Sign() < 0 {
			errs = append(errs, field.Invalid(path.Key(string(name)), q.Value(), "must be a valid resource quantity"))
		}
	}
	return errs
}

// resourceKey checks a name: of Kubernetes' own only storage is one.
func resourceKey(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := v.QualifiedName(string(name), path); len(errs) > 0 {
		return errs
	}
	if v.IsNative(name) {
		return v.Supported(name, path, corev1.ResourceStorage)
	}
	return nil
}
