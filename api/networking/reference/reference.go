// Package reference checks the references to objects of any kind that Ingresses and their classes hold.
package reference

import (
	corev1 "k8s.io/api/core/v1"
	apipath "k8s.io/apimachinery/pkg/api/validation/path"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// Validate checks that r names a kind and an object.
func Validate(r *corev1.TypedLocalObjectReference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if r.APIGroup != nil {
		errs = append(errs, v.DNSSubdomain(*r.APIGroup, path.Child("apiGroup"))...)
	}
	for _, part := range []struct{ name, value string }{{"kind", r.Kind}, {"name", r.Name}} {
		if part.value == "" {
			errs = append(errs, field.Required(path.Child(part.name), part.name+" is required"))
			continue
		}
		errs = append(errs, v.Messages(apipath.IsValidPathSegmentName(part.value), part.value, path.Child(part.name))...)
	}
	return errs
}
