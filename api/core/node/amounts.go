package node

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	apivalidation "github.com/peapod/peapod/api/validation"
)

// validateAmounts checks the amounts of capacity and allocatable.
func validateAmounts(obj *corev1.Node) field.ErrorList {
	var errs field.ErrorList
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"capacity", obj.Status.Capacity}, {"allocatable", obj.Status.Allocatable}} {
		for _, name := range slices.Sorted(maps.Keys(l.list)) {
			path := field.NewPath("status", l.name, string(name))
			errs = append(errs, apivalidation.ResourceQuantity(name, l.list[name], path)...)
		}
	}
	return errs
}
