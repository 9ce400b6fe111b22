package podspec

import (
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// ValidateClaimSpec checks the spec of a PersistentVolumeClaim, or of the template of one, as for a new object.
func ValidateClaimSpec(s *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	errs := ValidateAccessModes(s.AccessModes, "at least 1 access mode is required", path.Child("accessModes"))
	if s.Selector != nil {
		errs = append(errs, v.LabelSelector(s.Selector, false, path.Child("selector"))...)
	}
	storage := path.Child("resources").Key(string(corev1.ResourceStorage))
	if q, ok := s.Resources.Requests[corev1.ResourceStorage]; !ok {
		errs = append(errs, field.Required(storage, ""))
	} else {
		errs = append(errs, v.Positive(q, storage)...)
	}
	if s.StorageClassName != nil && *s.StorageClassName != "" {
		errs = append(errs, v.ObjectName(*s.StorageClassName, path.Child("storageClassName"))...)
	}
	errs = append(errs, v.OptionalEnum(s.VolumeMode, path.Child("volumeMode"),
		corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	errs = append(errs, checkDataSources(s, path)...)
	if s.VolumeAttributesClassName != nil && *s.VolumeAttributesClassName != "" {
		errs = append(errs, v.ObjectName(*s.VolumeAttributesClassName, path.Child("volumeAttributesClassName"))...)
	}
	return errs
}

// ValidateAccessModes checks how a volume may be mounted; required is the detail where no mode is given.
func ValidateAccessModes(modes []corev1.PersistentVolumeAccessMode, required string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(modes) == 0 {
		errs = append(errs, field.Required(path, required))
	}
	for _, m := range modes {
		errs = append(errs, v.Supported(m, path, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)...)
	}
	shared := slices.ContainsFunc(modes, func(m corev1.PersistentVolumeAccessMode) bool {
		return m == corev1.ReadOnlyMany || m == corev1.ReadWriteMany || m == corev1.ReadWriteOnce
	})
	if shared && slices.Contains(modes, corev1.ReadWriteOncePod) {
		errs = append(errs, field.Forbidden(path, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func checkDataSources(s *corev1.PersistentVolumeClaimSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if d := s.DataSource; d != nil {
		errs = append(errs, checkDataSource(d.Name, d.Kind, d.APIGroup, path.Child("dataSource"))...)
	}
	ref := s.DataSourceRef
	if ref == nil {
		return errs
	}
	errs = append(errs, checkDataSource(ref.Name, ref.Kind, ref.APIGroup, path.Child("dataSourceRef"))...)
	elsewhere := ref.Namespace != nil && *ref.Namespace != ""
	if elsewhere {
		errs = append(errs, v.Messages(apivalidation.ValidateNamespaceName(*ref.Namespace, false), *ref.Namespace,
			path.Child("dataSourceRef", "namespace"))...)
	}
	if s.DataSource == nil {
		return errs
	}
	same := reflect.DeepEqual(s.DataSource.APIGroup, ref.APIGroup) && s.DataSource.Kind == ref.Kind && s.DataSource.Name == ref.Name
	switch {
	case elsewhere:
		errs = append(errs, field.Invalid(path, path.Child("dataSource"), "may not be specified when dataSourceRef.namespace is specified"))
	case !same:
		errs = append(errs, field.Invalid(path, path.Child("dataSource"), "must match dataSourceRef"))
	}
	return errs
}

func checkDataSource(name, kind string, group *string, path *field.Path) field.ErrorList {
	errs := v.Required(name, path.Child("name"))
	errs = append(errs, v.Required(kind, path.Child("kind"))...)
	switch {
	case group != nil && *group != "":
		errs = append(errs, v.DNSSubdomain(*group, path.Child("apiGroup"))...)
	case kind != "PersistentVolumeClaim":
		errs = append(errs, field.Invalid(path, kind, "must be 'PersistentVolumeClaim' when referencing the default apiGroup"))
	}
	return errs
}

// ClaimWarnings returns what is accepted in the spec of a PersistentVolumeClaim at path and is hardly meant.
func ClaimWarnings(s *corev1.PersistentVolumeClaimSpec, path *field.Path) []string {
	w := &warner{}
	for _, amounts := range []struct {
		name string
		list corev1.ResourceList
	}{{"requests", s.Resources.Requests}, {"limits", s.Resources.Limits}} {
		w.fraction(amounts.list, corev1.ResourceStorage, path.Child("resources", amounts.name))
	}
	return w.list
}
