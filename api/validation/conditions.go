package validation

import (
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ConditionTypes checks that each condition of a status has a type, and that no two have the same.
func ConditionTypes[C any, T ~string](conditions []C, typeOf func(*C) T, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[T]()
	for i := range conditions {
		t, at := typeOf(&conditions[i]), path.Index(i).Child("type")
		if seen.Has(t) {
			errs = append(errs, field.Duplicate(at, t))
		}
		seen.Insert(t)
		errs = append(errs, Required(string(t), at)...)
	}
	return errs
}
