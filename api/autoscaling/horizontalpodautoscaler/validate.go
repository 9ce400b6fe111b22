package horizontalpodautoscaler

import (
	"context"
	"fmt"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/validation"
)

const (
	// maxPeriod is the longest time that a policy may count over, maxWindow the longest that recommendations may be kept; in seconds.
	maxPeriod = 1800
	maxWindow = 3600
)

// reference says which API versions an object that is referred to may have.
type reference int

const (
	// inGroup must be of a group; anyGroup may be of the core one; unchecked was accepted before.
	inGroup reference = iota
	anyGroup
	unchecked
)

func (r reference) check(apiVersion string) error {
	if r == unchecked {
		return nil
	}
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return err
	}
	if gv.Group == "" && r == inGroup {
		return fmt.Errorf("apiVersion must specify API group")
	}
	return nil
}

// Validate checks a new autoscaler.
func (kind) Validate(_ context.Context, obj *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	return validateSpec(&obj.Spec, targetOf(obj), anyGroup)
}

// targetOf is the rule for what a new autoscaler scales: of the core group that has one kind only.
func targetOf(obj *autoscalingv2.HorizontalPodAutoscaler) reference {
	if obj.Spec.ScaleTargetRef.Kind == "ReplicationController" {
		return anyGroup
	}
	return inGroup
}

// ValidateUpdate tolerates references to API versions that were there before.
func (kind) ValidateUpdate(_ context.Context, obj, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	target, described := targetOf(obj), anyGroup
	is, was := obj.Spec.ScaleTargetRef, old.Spec.ScaleTargetRef
	if is.APIVersion == was.APIVersion && is.Kind == was.Kind {
		target = unchecked
	}
	for _, m := range old.Spec.Metrics {
		if m.Object != nil && anyGroup.check(m.Object.DescribedObject.APIVersion) != nil {
			described = unchecked
		}
	}
	return validateSpec(&obj.Spec, target, described)
}

// ValidateStatusUpdate checks the counts.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
	path := field.NewPath("status")
	errs := validation.NonNegativeInteger(int64(obj.Status.CurrentReplicas), path.Child("currentReplicas"))
	return append(errs, validation.NonNegativeInteger(int64(obj.Status.DesiredReplicas), path.Child("desiredReplicas"))...)
}

func validateSpec(spec *autoscalingv2.HorizontalPodAutoscalerSpec, target, described reference) field.ErrorList {
	path := field.NewPath("spec")
	const atLeastOne = "must be greater than or equal to 1"
	var errs field.ErrorList
	if spec.MinReplicas != nil && *spec.MinReplicas < 1 {
		errs = append(errs, field.Invalid(path.Child("minReplicas"), *spec.MinReplicas, atLeastOne))
	}
	most := path.Child("maxReplicas")
	switch {
	case spec.MaxReplicas == 0:
		errs = append(errs, field.Required(most, "must be set and greater than 0"))
	case spec.MaxReplicas < 0:
		errs = append(errs, field.Invalid(most, spec.MaxReplicas, atLeastOne))
	}
	if spec.MinReplicas != nil && spec.MaxReplicas < *spec.MinReplicas {
		errs = append(errs, field.Invalid(most, spec.MaxReplicas, "must be greater than or equal to `minReplicas`"))
	}
	errs = append(errs, validateReference(&spec.ScaleTargetRef, target, path.Child("scaleTargetRef"))...)
	for i := range spec.Metrics {
		errs = append(errs, validateMetric(&spec.Metrics[i], described, path.Child("metrics").Index(i))...)
	}
	if b := spec.Behavior; b != nil {
		errs = append(errs, validateRules(b.ScaleUp, path.Child("behavior", "scaleUp"))...)
		errs = append(errs, validateRules(b.ScaleDown, path.Child("behavior", "scaleDown"))...)
	}
	return errs
}

func validateReference(ref *autoscalingv2.CrossVersionObjectReference, rule reference, path *field.Path) field.ErrorList {
	errs := pathSegment(ref.Kind, "", path.Child("kind"))
	errs = append(errs, pathSegment(ref.Name, "", path.Child("name"))...)
	if err := rule.check(ref.APIVersion); err != nil {
		errs = append(errs, field.Invalid(path.Child("apiVersion"), ref.APIVersion, err.Error()))
	}
	return errs
}

// pathSegment checks what becomes part of a URL; missing is what is said where there is nothing.
func pathSegment(value, missing string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, missing)}
	}
	return validation.Messages(content.IsPathSegmentName(value), value, path)
}

func validateRules(rules *autoscalingv2.HPAScalingRules, path *field.Path) field.ErrorList {
	if rules == nil {
		return nil
	}
	var errs field.ErrorList
	if w := rules.StabilizationWindowSeconds; w != nil {
		at := path.Child("stabilizationWindowSeconds")
		if *w < 0 {
			errs = append(errs, field.Invalid(at, *w, "must be greater than or equal to zero"))
		}
		if *w > maxWindow {
			errs = append(errs, field.Invalid(at, *w, fmt.Sprintf("must be less than or equal to %d", maxWindow)))
		}
	}
	errs = append(errs, validation.OptionalEnum(rules.SelectPolicy, path.Child("selectPolicy"),
		autoscalingv2.DisabledPolicySelect, autoscalingv2.MaxChangePolicySelect, autoscalingv2.MinChangePolicySelect)...)
	if len(rules.Policies) == 0 {
		errs = append(errs, field.Required(path.Child("policies"), "must specify at least one Policy"))
	}
	for i := range rules.Policies {
		errs = append(errs, validatePolicy(&rules.Policies[i], path.Child("policies").Index(i))...)
	}
	if rules.Tolerance != nil {
		errs = append(errs, validation.NonNegative(*rules.Tolerance, path.Child("tolerance"))...)
	}
	return errs
}

func validatePolicy(policy *autoscalingv2.HPAScalingPolicy, path *field.Path) field.ErrorList {
	const positive = "must be greater than zero"
	errs := validation.Supported(policy.Type, path.Child("type"), autoscalingv2.PercentScalingPolicy, autoscalingv2.PodsScalingPolicy)
	if policy.Value <= 0 {
		errs = append(errs, field.Invalid(path.Child("value"), policy.Value, positive))
	}
	period := path.Child("periodSeconds")
	if policy.PeriodSeconds <= 0 {
		errs = append(errs, field.Invalid(period, policy.PeriodSeconds, positive))
	}
	if policy.PeriodSeconds > maxPeriod {
		errs = append(errs, field.Invalid(period, policy.PeriodSeconds, fmt.Sprintf("must be less than or equal to %d", maxPeriod)))
	}
	return errs
}
