package limitrange

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	apivalidation "github.com/peapod/peapod/api/validation"
)

// Validate checks each limit, and that there is one of a type, on create and update alike.
func (kind) Validate(_ context.Context, obj *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := map[corev1.LimitType]bool{}
	for i := range obj.Spec.Limits {
		item, path := &obj.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateType(item.Type, path.Child("type"))...)
		if seen[item.Type] {
			errs = append(errs, field.Duplicate(path.Child("type"), item.Type))
		}
		seen[item.Type] = true
		errs = append(errs, validateItem(item, path)...)
	}
	return errs
}

func validateType(t corev1.LimitType, path *field.Path) field.ErrorList {
	if errs := apivalidation.Messages(validation.IsQualifiedName(string(t)), t, path); len(errs) > 0 {
		return errs
	}
	switch t {
	case corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim:
		return nil
	}
	if !strings.Contains(string(t), "/") {
		return field.ErrorList{field.Invalid(path, t, "must be a standard limit type or fully qualified")}
	}
	return nil
}

func validateItem(item *corev1.LimitRangeItem, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.Set[corev1.ResourceName]{}
	named := func(list corev1.ResourceList, path *field.Path) {
		for _, name := range slices.Sorted(maps.Keys(list)) {
			names.Insert(name)
			at := path.Key(string(name))
			if item.Type == corev1.LimitTypePod || item.Type == corev1.LimitTypeContainer {
				errs = append(errs, apivalidation.ContainerResourceName(name, at)...)
			} else {
				errs = append(errs, apivalidation.ResourceName(name, at)...)
			}
		}
	}
	named(item.Max, path.Child("max"))
	named(item.Min, path.Child("min"))
	// A Pod as a whole is given nothing, its containers are.
	if item.Type == corev1.LimitTypePod {
		const msg = "may not be specified when `type` is 'Pod'"
		if len(item.Default) > 0 {
			errs = append(errs, field.Forbidden(path.Child("default"), msg))
		}
		if len(item.DefaultRequest) > 0 {
			errs = append(errs, field.Forbidden(path.Child("defaultRequest"), msg))
		}
	} else {
		named(item.Default, path.Child("default"))
		named(item.DefaultRequest, path.Child("defaultRequest"))
	}
	if item.Type == corev1.LimitTypePersistentVolumeClaim {
		_, min := item.Min[corev1.ResourceStorage]
		_, max := item.Max[corev1.ResourceStorage]
		if !min && !max {
			errs = append(errs, field.Required(path.Child("limits"),
				"either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	named(item.MaxLimitRequestRatio, path.Child("maxLimitRequestRatio"))
	for _, name := range sets.List(names) {
		errs = append(errs, validateOrder(item, name, path)...)
	}
	return errs
}

// validateOrder checks that min <= default request <= default limit <= max, as far as each is given.
func validateOrder(item *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	min, hasMin := item.Min[name]
	max, hasMax := item.Max[name]
	limit, hasLimit := item.Default[name]
	request, hasRequest := item.DefaultRequest[name]
	if item.Type == corev1.LimitTypePod {
		hasLimit, hasRequest = false, false
	}
	order := func(both bool, low, high apiresource.Quantity, at string, shown apiresource.Quantity, format string) {
		if both && low.Cmp(high) > 0 {
			errs = append(errs, field.Invalid(path.Child(at).Key(string(name)), shown,
				fmt.Sprintf(format, low.String(), high.String())))
		}
	}
	order(hasMin && hasMax, min, max, "min", min, "min value %s is greater than max value %s")
	order(hasMin && hasRequest, min, request, "defaultRequest", request,
		"min value %s is greater than default request value %s")
	order(hasRequest && hasMax, request, max, "defaultRequest", request,
		"default request value %s is greater than max value %s")
	order(hasRequest && hasLimit, request, limit, "defaultRequest", request,
		"default request value %s is greater than default limit value %s")
	order(hasMin && hasLimit, min, limit, "default", min, "min value %s is greater than default value %s")
	order(hasLimit && hasMax, limit, max, "default", max, "default value %s is greater than max value %s")
	errs = append(errs, validateRatio(item, name, path.Child("maxLimitRequestRatio").Key(string(name)))...)
	if !apivalidation.OvercommitAllowed(name) && hasLimit && hasRequest && limit.Cmp(request) != 0 {
		errs = append(errs, field.Invalid(path.Child("defaultRequest").Key(string(name)), request, fmt.Sprintf(
			"default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), name)))
	}
	return errs
}

// validateRatio checks that a limit may be the request at least, and that the ratio can be reached within min and max.
func validateRatio(item *corev1.LimitRangeItem, name corev1.ResourceName, path *field.Path) field.ErrorList {
	ratio, ok := item.MaxLimitRequestRatio[name]
	if !ok {
		return nil
	}
	var errs field.ErrorList
	if ratio.Cmp(*apiresource.NewQuantity(1, apiresource.DecimalSI)) < 0 {
		errs = append(errs, field.Invalid(path, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
	}
	min, hasMin := item.Min[name]
	max, hasMax := item.Max[name]
	if !hasMin || !hasMax {
		return errs
	}
	value, low, high := float64(ratio.Value()), min.Value(), max.Value()
	// Thousandths count where they can be told without overflow.
	limit := apiresource.MaxMilliValue
	if ratio.Value() < limit && low < limit && high < limit {
		value, low, high = float64(ratio.MilliValue())/1000, min.MilliValue(), max.MilliValue()
	}
	if most := float64(high) / float64(low); value > most {
		errs = append(errs, field.Invalid(path, ratio,
			fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most)))
	}
	return errs
}
