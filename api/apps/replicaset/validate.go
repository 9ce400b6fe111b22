package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

var specPath = field.NewPath("spec")

// Validate checks a new ReplicaSet.
func (kind) Validate(_ context.Context, obj *appsv1.ReplicaSet) field.ErrorList {
	return validateSpec(&obj.Spec, nil)
}

// ValidateUpdate checks a changed one, whose selector stays.
func (kind) ValidateUpdate(_ context.Context, obj, old *appsv1.ReplicaSet) field.ErrorList {
	errs := validateSpec(&obj.Spec, &old.Spec)
	return append(errs, apivalidation.ValidateImmutableField(obj.Spec.Selector, old.Spec.Selector, specPath.Child("selector"))...)
}

func validateSpec(spec, old *appsv1.ReplicaSetSpec) field.ErrorList {
	errs := workload.NonNegative(spec.Replicas, specPath.Child("replicas"))
	errs = append(errs, v.NonNegativeInteger(int64(spec.MinReadySeconds), specPath.Child("minReadySeconds"))...)
	// The message names another kind, as that of Kubernetes does.
	selector, more := workload.Selector(spec.Selector, "empty selector is invalid for deployment", specPath.Child("selector"))
	errs = append(errs, more...)
	if selector == nil {
		return errs
	}
	path := specPath.Child("template")
	errs = append(errs, workload.Matches(&spec.Template, selector, path)...)
	if old == nil {
		errs = append(errs, podspec.ValidateTemplate(&spec.Template, nil, path)...)
	} else {
		errs = append(errs, podspec.ValidateTemplate(&spec.Template, &old.Template, path)...)
	}
	return append(errs, workload.RunsForEver(&spec.Template, "ReplicaSet", path)...)
}

// ValidateStatusUpdate checks that the numbers can be.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *appsv1.ReplicaSet) field.ErrorList {
	s, path := &obj.Status, field.NewPath("status")
	labeled := workload.Count{Name: "fullyLabeledReplicas", Value: int64(s.FullyLabeledReplicas)}
	ready := workload.Count{Name: "readyReplicas", Value: int64(s.ReadyReplicas)}
	available := workload.Count{Name: "availableReplicas", Value: int64(s.AvailableReplicas)}
	errs := workload.Counts(path, workload.Count{Name: "replicas", Value: int64(s.Replicas)}, labeled, ready, available,
		workload.Count{Name: "observedGeneration", Value: s.ObservedGeneration})
	errs = append(errs, workload.NonNegative(s.TerminatingReplicas, path.Child("terminatingReplicas"))...)
	errs = append(errs, workload.AtMost(s.Replicas, "cannot be greater than status.replicas", path, labeled, ready, available)...)
	return append(errs, workload.AtMost(s.ReadyReplicas, "cannot be greater than readyReplicas", path, available)...)
}
