package validation

import (
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Labels checks keys and values.
func Labels(labels map[string]string, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabels(labels, path)
}

// LabelKey checks one key.
func LabelKey(key string, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelName(key, path)
}

// LabelValue checks one value.
func LabelValue(value string, path *field.Path) field.ErrorList {
	return Messages(validation.IsValidLabelValue(value), value, path)
}

// LabelSelector checks a selector; nil passes. anyValue lets values be what no label can be, for objects that were
// stored so.
func LabelSelector(s *metav1.LabelSelector, anyValue bool, path *field.Path) field.ErrorList {
	return metavalidation.ValidateLabelSelector(s,
		metavalidation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: anyValue}, path)
}

// TemplateMeta checks the metadata of a template, which may hold labels and annotations (any other field is ignored).
func TemplateMeta(m *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	errs := Labels(m.Labels, path.Child("labels"))
	return append(errs, apivalidation.ValidateAnnotations(m.Annotations, path.Child("annotations"))...)
}
