package deployment

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

var specPath = field.NewPath("spec")

// Validate checks a new Deployment.
func (kind) Validate(_ context.Context, obj *appsv1.Deployment) field.ErrorList {
	return validateSpec(&obj.Spec, nil)
}

// ValidateUpdate checks a changed one, whose selector stays.
func (kind) ValidateUpdate(_ context.Context, obj, old *appsv1.Deployment) field.ErrorList {
	errs := validateSpec(&obj.Spec, &old.Spec)
	return append(errs, apivalidation.ValidateImmutableField(obj.Spec.Selector, old.Spec.Selector, specPath.Child("selector"))...)
}

func validateSpec(spec, old *appsv1.DeploymentSpec) field.ErrorList {
	errs := workload.NonNegative(spec.Replicas, specPath.Child("replicas"))
	selector, more := workload.Selector(spec.Selector, "empty selector is invalid for deployment", specPath.Child("selector"))
	errs = append(errs, more...)
	if selector != nil {
		path := specPath.Child("template")
		errs = append(errs, workload.Matches(&spec.Template, selector, path)...)
		var was *corev1.PodTemplateSpec
		if old != nil {
			was = &old.Template
		}
		errs = append(errs, podspec.ValidateTemplate(&spec.Template, was, path)...)
		// The message names the kind that the Pods belong to.
		errs = append(errs, workload.RunsForEver(&spec.Template, "ReplicaSet", path)...)
	}
	errs = append(errs, validateStrategy(&spec.Strategy, specPath.Child("strategy"))...)
	errs = append(errs, v.NonNegativeInteger(int64(spec.MinReadySeconds), specPath.Child("minReadySeconds"))...)
	errs = append(errs, workload.NonNegative(spec.RevisionHistoryLimit, specPath.Child("revisionHistoryLimit"))...)
	if d := spec.ProgressDeadlineSeconds; d != nil {
		path := specPath.Child("progressDeadlineSeconds")
		errs = append(errs, workload.NonNegative(d, path)...)
		if *d <= spec.MinReadySeconds {
			errs = append(errs, field.Invalid(path, *d, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func validateStrategy(s *appsv1.DeploymentStrategy, path *field.Path) field.ErrorList {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'")}
		}
		return nil
	case appsv1.RollingUpdateDeploymentStrategyType:
		if s.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "this should be defaulted and never be nil")}
		}
		return validateRolling(s.RollingUpdate, rolling)
	}
	return field.ErrorList{field.NotSupported(path, s.Type,
		[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType})}
}

func validateRolling(r *appsv1.RollingUpdateDeployment, path *field.Path) field.ErrorList {
	unavailable := path.Child("maxUnavailable")
	errs := workload.Share(r.MaxUnavailable, unavailable)
	errs = append(errs, workload.Share(r.MaxSurge, path.Child("maxSurge"))...)
	if workload.IsZero(r.MaxUnavailable) && workload.IsZero(r.MaxSurge) {
		errs = append(errs, field.Invalid(unavailable, r.MaxUnavailable, "may not be 0 when `maxSurge` is 0"))
	}
	return append(errs, workload.NotMoreThanAll(r.MaxUnavailable, unavailable)...)
}

// ValidateStatusUpdate checks that the numbers can be.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *appsv1.Deployment) field.ErrorList {
	s, path := &obj.Status, field.NewPath("status")
	updated := workload.Count{Name: "updatedReplicas", Value: int64(s.UpdatedReplicas)}
	ready := workload.Count{Name: "readyReplicas", Value: int64(s.ReadyReplicas)}
	available := workload.Count{Name: "availableReplicas", Value: int64(s.AvailableReplicas)}
	errs := workload.Counts(path, workload.Count{Name: "observedGeneration", Value: s.ObservedGeneration},
		workload.Count{Name: "replicas", Value: int64(s.Replicas)}, updated, ready, available,
		workload.Count{Name: "unavailableReplicas", Value: int64(s.UnavailableReplicas)})
	errs = append(errs, workload.NonNegative(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	errs = append(errs, workload.Collisions(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
	errs = append(errs, workload.AtMost(s.Replicas, "cannot be greater than status.replicas", path, updated, ready, available)...)
	return append(errs, workload.AtMost(s.ReadyReplicas, "cannot be greater than readyReplicas", path, available)...)
}
