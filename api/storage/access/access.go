// Package access prints what volumes, claims and classes of storage have in common, and warns of what they share.
package access

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Unset stands for a value that is not given.
const Unset = "<unset>"

// Modes are the access modes in short, in the API's order.
func Modes(modes []corev1.PersistentVolumeAccessMode) string {
	var list []string
	for _, m := range []struct {
		mode  corev1.PersistentVolumeAccessMode
		short string
	}{
		{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"},
	} {
		if slices.Contains(modes, m.mode) {
			list = append(list, m.short)
		}
	}
	return strings.Join(list, ",")
}

// Phase is the phase of obj, or Terminating if it is being deleted.
func Phase[T ~string](obj metav1.Object, phase T) string {
	if obj.GetDeletionTimestamp() != nil {
		return "Terminating"
	}
	return string(phase)
}

// Class is the name of the storage class: that of the annotation of old, or the field's.
func Class(annotations map[string]string, name *string) string {
	if class, found := annotations[corev1.BetaStorageClassAnnotation]; found {
		return class
	}
	if name == nil {
		return ""
	}
	return *name
}

// OrUnset is the value, or Unset if there is none.
func OrUnset[T ~string](value *T) string {
	if value == nil {
		return Unset
	}
	return string(*value)
}

// ClassWarnings warns of the annotation by which a class was chosen before there was a field.
func ClassWarnings(annotations map[string]string) []string {
	if _, found := annotations[corev1.BetaStorageClassAnnotation]; !found {
		return nil
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated since v1.8; use \"storageClassName\" attribute instead", corev1.BetaStorageClassAnnotation)}
}
