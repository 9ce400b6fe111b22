package persistentvolume

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

// ValidateInline checks the volume that an attachment describes by itself, rather than by the name of a PersistentVolume: one
// of a CSI driver that no claim has.
func ValidateInline(s *corev1.PersistentVolumeSpec, path *field.Path) field.ErrorList {
	const notInline = "may not be specified in the context of inline volumes"
	var errs field.ErrorList
	if s.ClaimRef != nil {
		errs = append(errs, field.Forbidden(path.Child("claimRef"), notInline))
	}
	if len(s.Capacity) > 0 {
		errs = append(errs, field.Forbidden(path.Child("capacity"), notInline))
	}
	if s.CSI == nil {
		errs = append(errs, field.Required(path.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	errs = append(errs, podspec.ValidateAccessModes(s.AccessModes, "", path.Child("accessModes"))...)
	if s.NodeAffinity != nil {
		errs = append(errs, field.Forbidden(path.Child("nodeAffinity"), notInline))
	}
	if s.StorageClassName != "" {
		errs = append(errs, field.Forbidden(path.Child("storageClassName"), notInline))
	}
	if s.PersistentVolumeReclaimPolicy != "" && s.PersistentVolumeReclaimPolicy != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(path.Child("persistentVolumeReclaimPolicy"), "may only be "+string(corev1.PersistentVolumeReclaimRetain)+" in the context of inline volumes"))
	}
	errs = append(errs, v.OptionalEnum(s.VolumeMode, path.Child("volumeMode"),
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	return append(errs, validateSource("", &s.PersistentVolumeSource, false, path)...)
}
