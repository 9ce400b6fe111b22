package persistentvolume

import (
	"context"
	"maps"
	"slices"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

var specPath = field.NewPath("spec")

// Validate checks a new volume.
func (kind) Validate(_ context.Context, obj *corev1.PersistentVolume) field.ErrorList {
	s := &obj.Spec
	errs := podspec.ValidateAccessModes(s.AccessModes, "", specPath.Child("accessModes"))
	errs = append(errs, validateCapacity(s.Capacity, specPath.Child("capacity"))...)
	reclaim := specPath.Child("persistentVolumeReclaimPolicy")
	if s.PersistentVolumeReclaimPolicy != "" {
		errs = append(errs, v.Supported(s.PersistentVolumeReclaimPolicy, reclaim, corev1.PersistentVolumeReclaimDelete,
			corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	affinity := specPath.Child("nodeAffinity", "required")
	switch {
	case s.NodeAffinity == nil:
	case s.NodeAffinity.Required == nil:
		errs = append(errs, field.Required(affinity, "must specify required node constraints"))
	default:
		errs = append(errs, v.NodeSelector(s.NodeAffinity.Required, false, affinity)...)
	}
	errs = append(errs, validateSource(obj.Name, &s.PersistentVolumeSource, s.NodeAffinity != nil, specPath)...)
	if isRoot(s.HostPath) && s.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		errs = append(errs, field.Forbidden(reclaim, "may not be 'recycle' for a hostPath mount of '/'"))
	}
	if s.StorageClassName != "" {
		errs = append(errs, v.ObjectName(s.StorageClassName, specPath.Child("storageClassName"))...)
	}
	errs = append(errs, v.OptionalEnum(s.VolumeMode, specPath.Child("volumeMode"),
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateAttributesClass(s)...)
}

func validateCapacity(capacity corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(capacity) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	if _, ok := capacity[corev1.ResourceStorage]; !ok || len(capacity) > 1 {
		errs = append(errs, field.NotSupported(path, capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, name := range slices.Sorted(maps.Keys(capacity)) {
		errs = append(errs, v.Positive(capacity[name], path.Key(string(name)))...)
	}
	return errs
}

func validateAttributesClass(s *corev1.PersistentVolumeSpec) field.ErrorList {
	if s.VolumeAttributesClassName == nil {
		return nil
	}
	var errs field.ErrorList
	path := specPath.Child("volumeAttributesClassName")
	if *s.VolumeAttributesClassName == "" {
		errs = append(errs, field.Required(path, "an empty string is disallowed"))
	} else {
		errs = append(errs, v.ObjectName(*s.VolumeAttributesClassName, path)...)
	}
	if s.CSI == nil {
		errs = append(errs, field.Required(specPath.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

// ValidateUpdate checks a changed volume, which stays where it is.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *corev1.PersistentVolume) field.ErrorList {
	errs := k.Validate(ctx, obj)
	is, was := obj.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource
	if is.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil {
		// It may be given later.
		csi := *is.CSI
		csi.ControllerExpandSecretRef = nil
		is.CSI = &csi
	}
	if !equality.Semantic.DeepEqual(is, was) {
		errs = append(errs, field.Forbidden(specPath.Child("persistentvolumesource"),
			"spec.persistentvolumesource is immutable after creation\n"+cmp.Diff(was, is)))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(obj.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Spec.NodeAffinity != nil {
		errs = append(errs, apivalidation.ValidateImmutableField(obj.Spec.NodeAffinity, old.Spec.NodeAffinity, field.NewPath("nodeAffinity"))...)
	}
	if old.Spec.VolumeAttributesClassName != nil && obj.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(specPath.Child("volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}
