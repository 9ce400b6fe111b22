package horizontalpodautoscaler

import (
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/validation"
)

// source is one of the members of a MetricSpec, of which exactly one is set: that which its type says.
type source struct {
	name  string
	of    autoscalingv2.MetricSourceType
	set   bool
	check func(path *field.Path) field.ErrorList
}

func sourcesOf(m *autoscalingv2.MetricSpec, described reference) []source {
	return []source{
		{"object", autoscalingv2.ObjectMetricSourceType, m.Object != nil, func(path *field.Path) field.ErrorList {
			errs := validateReference(&m.Object.DescribedObject, described, path.Child("describedObject"))
			errs = append(errs, validateIdentifier(&m.Object.Metric, path.Child("metric"))...)
			errs = append(errs, validateTarget(&m.Object.Target, path.Child("target"))...)
			if m.Object.Target.Value == nil && m.Object.Target.AverageValue == nil {
				errs = append(errs, field.Required(path.Child("target", "averageValue"), "must set either a target value or averageValue"))
			}
			return errs
		}},
		{"external", autoscalingv2.ExternalMetricSourceType, m.External != nil, func(path *field.Path) field.ErrorList {
			errs := validateIdentifier(&m.External.Metric, path.Child("metric"))
			errs = append(errs, validateTarget(&m.External.Target, path.Child("target"))...)
			return append(errs, either(m.External.Target.Value != nil, m.External.Target.AverageValue != nil, path.Child("target"),
				"averageValue", "must set either a target value for metric or a per-pod target",
				"value", "may not set both a target value for metric and a per-pod target")...)
		}},
		{"pods", autoscalingv2.PodsMetricSourceType, m.Pods != nil, func(path *field.Path) field.ErrorList {
			errs := validateIdentifier(&m.Pods.Metric, path.Child("metric"))
			errs = append(errs, validateTarget(&m.Pods.Target, path.Child("target"))...)
			if m.Pods.Target.AverageValue == nil {
				errs = append(errs, field.Required(path.Child("target", "averageValue"), "must specify a positive target averageValue"))
			}
			return errs
		}},
		{"resource", autoscalingv2.ResourceMetricSourceType, m.Resource != nil, func(path *field.Path) field.ErrorList {
			var errs field.ErrorList
			if m.Resource.Name == "" {
				errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
			}
			return append(errs, validateUsage(&m.Resource.Target, path.Child("target"))...)
		}},
		{"containerResource", autoscalingv2.ContainerResourceMetricSourceType, m.ContainerResource != nil, func(path *field.Path) field.ErrorList {
			return validateContainerResource(m.ContainerResource, path)
		}},
	}
}

func validateMetric(m *autoscalingv2.MetricSpec, described reference, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if m.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric source type"))
	}
	sources := sourcesOf(m, described)
	errs = append(errs, validation.Supported(m.Type, path.Child("type"), autoscalingv2.ContainerResourceMetricSourceType,
		autoscalingv2.ExternalMetricSourceType, autoscalingv2.ObjectMetricSourceType, autoscalingv2.PodsMetricSourceType,
		autoscalingv2.ResourceMetricSourceType)...)
	var set []source
	for _, s := range sources {
		if s.set {
			set = append(set, s)
		} else if s.of == m.Type {
			errs = append(errs, field.Required(path.Child(s.name), "must populate information for the given metric source"))
		}
	}
	// Of several, one is looked into and the others need not be there.
	if len(set) > 0 {
		errs = append(errs, set[0].check(path.Child(set[0].name))...)
	}
	for _, s := range set {
		if s.of != m.Type && len(set) > 1 {
			errs = append(errs, field.Forbidden(path.Child(s.name), "must populate the given metric source only"))
		}
	}
	return errs
}

func validateContainerResource(src *autoscalingv2.ContainerResourceMetricSource, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if src.Name == "" {
		errs = append(errs, field.Required(path.Child("name"), "must specify a resource name"))
	} else {
		errs = append(errs, validation.ContainerResourceName(src.Name, path.Child("name"))...)
	}
	if src.Container == "" {
		errs = append(errs, field.Required(path.Child("container"), "must specify a container"))
	} else {
		errs = append(errs, validation.DNSLabel(src.Container, path.Child("container"))...)
	}
	return append(errs, validateUsage(&src.Target, path.Child("target"))...)
}

// validateUsage checks the target of what Pods have used, a percentage of their requests or an amount.
func validateUsage(target *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	return append(validateTarget(target, path), either(target.AverageUtilization != nil, target.AverageValue != nil, path,
		"averageUtilization", "must set either a target raw value or a target utilization",
		"averageValue", "may not set both a target raw value and a target utilization")...)
}

// either checks that one of two is set, and says at which field, and how, that it is none or both.
func either(a, b bool, path *field.Path, atNone, none, atBoth, both string) field.ErrorList {
	switch {
	case !a && !b:
		return field.ErrorList{field.Required(path.Child(atNone), none)}
	case a && b:
		return field.ErrorList{field.Forbidden(path.Child(atBoth), both)}
	}
	return nil
}

func validateTarget(target *autoscalingv2.MetricTarget, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if target.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "must specify a metric target type"))
	}
	switch target.Type {
	case autoscalingv2.UtilizationMetricType, autoscalingv2.ValueMetricType, autoscalingv2.AverageValueMetricType:
	default:
		errs = append(errs, field.Invalid(path.Child("type"), target.Type, "must be either Utilization, Value, or AverageValue"))
	}
	if v := target.Value; v != nil && v.Sign() != 1 {
		errs = append(errs, field.Invalid(path.Child("value"), v, "must be positive"))
	}
	if v := target.AverageValue; v != nil && v.Sign() != 1 {
		errs = append(errs, field.Invalid(path.Child("averageValue"), v, "must be positive"))
	}
	if u := target.AverageUtilization; u != nil && *u < 1 {
		errs = append(errs, field.Invalid(path.Child("averageUtilization"), *u, "must be greater than 0"))
	}
	return errs
}

func validateIdentifier(metric *autoscalingv2.MetricIdentifier, path *field.Path) field.ErrorList {
	return pathSegment(metric.Name, "must specify a metric name", path.Child("name"))
}
