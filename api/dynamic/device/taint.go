package device

import (
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

var effects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

// Now is the time as objects have it, in seconds; tests replace it.
var Now = func() time.Time { return time.Now().Truncate(time.Second) }

// DefaultTaint says since when a taint is there.
func DefaultTaint(t *resourcev1.DeviceTaint) {
	if t.TimeAdded == nil {
		t.TimeAdded = &metav1.Time{Time: Now()}
	}
}

// Taint checks one taint of a device.
func Taint(t *resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelName(t.Key, path.Child("key"))
	if t.Value != "" {
		errs = append(errs, v.LabelValue(t.Value, path.Child("value"))...)
	}
	return append(errs, v.Enum(t.Effect, path.Child("effect"), effects...)...)
}

// Tolerations checks what taints a request puts up with.
func Tolerations(list []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range list {
		errs = append(errs, toleration(&list[i], path.Index(i))...)
	}
	return errs
}

func toleration(t *resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, metav1validation.ValidateLabelName(t.Key, path.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, v.LabelValue(t.Value, path.Child("value"))...)
	default:
		errs = append(errs, v.Enum(t.Operator, path.Child("operator"), resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists)...)
	}
	if t.Effect != "" {
		errs = append(errs, v.Supported(t.Effect, path.Child("effect"), effects...)...)
	}
	return errs
}

// BindingConditions checks the conditions that a Pod's binding waits for, and those that say that it waits in vain. path is that of
// what has them.
func BindingConditions(good, bad []string, path *field.Path) field.ErrorList {
	goodPath, badPath := path.Child("bindingConditions"), path.Child("bindingFailureConditions")
	label := func(name *string, at *field.Path) field.ErrorList {
		return metav1validation.ValidateLabelName(*name, at)
	}
	errs := Set(good, resourcev1.BindingConditionsMaxSize, goodPath, itself[string], label)
	errs = append(errs, Set(bad, resourcev1.BindingFailureConditionsMaxSize, badPath, itself[string], label)...)
	for i, name := range bad {
		if slices.Contains(good, name) {
			errs = append(errs, field.Invalid(badPath.Index(i), name, "bindingFailureConditions must not overlap with bindingConditions"))
		}
	}
	if len(good) == 0 && len(bad) > 0 {
		errs = append(errs, field.Invalid(goodPath, good, "bindingConditions are required to use bindingFailureConditions"))
	}
	if len(bad) == 0 && len(good) > 0 {
		errs = append(errs, field.Invalid(badPath, bad, "bindingFailureConditions are required to use bindingConditions"))
	}
	return errs
}
