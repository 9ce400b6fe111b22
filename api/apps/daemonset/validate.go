package daemonset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

var specPath = field.NewPath("spec")

// Validate checks a new DaemonSet.
func (kind) Validate(_ context.Context, obj *appsv1.DaemonSet) field.ErrorList {
	return validateSpec(&obj.Spec, nil)
}

// ValidateUpdate checks a changed one, whose selector stays.
func (kind) ValidateUpdate(_ context.Context, obj, old *appsv1.DaemonSet) field.ErrorList {
	errs := validateSpec(&obj.Spec, &old.Spec.Template)
	return append(errs, apivalidation.ValidateImmutableField(obj.Spec.Selector, old.Spec.Selector, specPath.Child("selector"))...)
}

// validateSpec checks spec; old is the template that is replaced, nil if none is.
func validateSpec(spec *appsv1.DaemonSetSpec, old *corev1.PodTemplateSpec) field.ErrorList {
	path, template := specPath.Child("selector"), specPath.Child("template")
	errs := v.LabelSelector(spec.Selector, false, path)
	// Here a selector that is missing or empty does not excuse the template from the comparison.
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !selector.Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), spec.Template.Labels, workload.Unmatched))
	}
	if s := spec.Selector; s != nil && len(s.MatchLabels)+len(s.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, s, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, podspec.ValidateTemplate(&spec.Template, old, template)...)
	errs = append(errs, workload.RunsForEver(&spec.Template, "DaemonSet", template)...)
	errs = append(errs, v.NonNegativeInteger(int64(spec.MinReadySeconds), specPath.Child("minReadySeconds"))...)
	errs = append(errs, validateStrategy(&spec.UpdateStrategy, specPath.Child("updateStrategy"))...)
	return append(errs, workload.NonNegative(spec.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))...)
}

func validateStrategy(s *appsv1.DaemonSetUpdateStrategy, path *field.Path) field.ErrorList {
	switch s.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
		return nil
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(path.Child("rollingUpdate"), "")}
		}
		return validateRolling(s.RollingUpdate, path.Child("rollingUpdate"))
	}
	return field.ErrorList{field.NotSupported(path, s.Type,
		[]appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType})}
}

// validateRolling checks that a node either goes without its Pod for a while or has two, and not both.
func validateRolling(r *appsv1.RollingUpdateDaemonSet, path *field.Path) field.ErrorList {
	unavailable, surge := path.Child("maxUnavailable"), path.Child("maxSurge")
	errs := workload.Share(r.MaxUnavailable, unavailable)
	errs = append(errs, workload.Share(r.MaxSurge, surge)...)
	errs = append(errs, workload.NotMoreThanAll(r.MaxUnavailable, unavailable)...)
	errs = append(errs, workload.NotMoreThanAll(r.MaxSurge, surge)...)
	switch without, twice := !workload.IsZero(r.MaxUnavailable), !workload.IsZero(r.MaxSurge); {
	case without && twice:
		errs = append(errs, field.Invalid(surge, r.MaxSurge, "may not be set when maxUnavailable is non-zero"))
	case !without && !twice:
		errs = append(errs, field.Required(unavailable, "cannot be 0 when maxSurge is 0"))
	}
	return errs
}

// ValidateStatusUpdate checks that the numbers can be.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *appsv1.DaemonSet) field.ErrorList {
	s, path := &obj.Status, field.NewPath("status")
	errs := workload.Counts(path,
		workload.Count{Name: "currentNumberScheduled", Value: int64(s.CurrentNumberScheduled)},
		workload.Count{Name: "numberMisscheduled", Value: int64(s.NumberMisscheduled)},
		workload.Count{Name: "desiredNumberScheduled", Value: int64(s.DesiredNumberScheduled)},
		workload.Count{Name: "numberReady", Value: int64(s.NumberReady)},
		workload.Count{Name: "observedGeneration", Value: s.ObservedGeneration},
		workload.Count{Name: "updatedNumberScheduled", Value: int64(s.UpdatedNumberScheduled)},
		workload.Count{Name: "numberAvailable", Value: int64(s.NumberAvailable)},
		workload.Count{Name: "numberUnavailable", Value: int64(s.NumberUnavailable)})
	return append(errs, workload.Collisions(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
}
