package statefulset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

var specPath = field.NewPath("spec")

// Validate checks a new StatefulSet.
func (kind) Validate(_ context.Context, obj *appsv1.StatefulSet) field.ErrorList {
	return validateSpec(&obj.Spec, nil)
}

// ValidateUpdate checks a changed one, of which little may change: the Pods that are there already must go on having
// their names and their claims.
func (kind) ValidateUpdate(_ context.Context, obj, old *appsv1.StatefulSet) field.ErrorList {
	errs := validateSpec(&obj.Spec, &old.Spec)
	fixed, is := obj.Spec, &old.Spec
	fixed.Replicas, fixed.Template, fixed.UpdateStrategy = is.Replicas, is.Template, is.UpdateStrategy
	fixed.MinReadySeconds, fixed.Ordinals, fixed.RevisionHistoryLimit = is.MinReadySeconds, is.Ordinals, is.RevisionHistoryLimit
	fixed.PersistentVolumeClaimRetentionPolicy = is.PersistentVolumeClaimRetentionPolicy
	if !equality.Semantic.DeepEqual(fixed, *is) {
		errs = append(errs, field.Forbidden(specPath, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func validateSpec(spec, old *appsv1.StatefulSetSpec) field.ErrorList {
	errs := validatePolicies(spec, old)
	errs = append(errs, workload.NonNegative(spec.Replicas, specPath.Child("replicas"))...)
	errs = append(errs, v.NonNegativeInteger(int64(spec.MinReadySeconds), specPath.Child("minReadySeconds"))...)
	if spec.Ordinals != nil {
		errs = append(errs, v.NonNegativeInteger(int64(spec.Ordinals.Start), specPath.Child("ordinals", "start"))...)
	}
	selector, more := workload.Selector(spec.Selector, "empty selector is invalid for statefulset", specPath.Child("selector"))
	errs = append(errs, more...)
	template := specPath.Child("template")
	if selector != nil {
		errs = append(errs, workload.Matches(&spec.Template, selector, template)...)
		errs = append(errs, validateTemplateMeta(&spec.Template, old, template)...)
	}
	return append(errs, workload.RunsForEver(&spec.Template, "StatefulSet", template)...)
}

// validateTemplateMeta checks the template's metadata and no more: whether the spec holds is not known before the claims
// have been added to its volumes, when its Pods are made.
func validateTemplateMeta(t *corev1.PodTemplateSpec, old *appsv1.StatefulSetSpec, path *field.Path) field.ErrorList {
	o := podspec.Options{Meta: &t.ObjectMeta}
	if old != nil {
		o.Old, o.OldMeta = &old.Template.Spec, &old.Template.ObjectMeta
	}
	errs := v.TemplateMeta(&t.ObjectMeta, path)
	return append(errs, podspec.ValidateAnnotations(t.Annotations, &t.Spec, path.Child("annotations"), o)...)
}

func validatePolicies(spec, old *appsv1.StatefulSetSpec) field.ErrorList {
	var errs field.ErrorList
	management := specPath.Child("podManagementPolicy")
	switch spec.PodManagementPolicy {
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	case "":
		errs = append(errs, field.Required(management, ""))
	default:
		errs = append(errs, field.Invalid(management, spec.PodManagementPolicy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, validateStrategy(&spec.UpdateStrategy, specPath.Child("updateStrategy"))...)
	if p := spec.PersistentVolumeClaimRetentionPolicy; p != nil {
		path := specPath.Child("persistentVolumeClaimRetentionPolicy")
		retain, remove := appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType
		errs = append(errs, v.Supported(p.WhenDeleted, path.Child("whenDeleted"), retain, remove)...)
		errs = append(errs, v.Supported(p.WhenScaled, path.Child("whenScaled"), retain, remove)...)
	}
	// What was no DNS label before that was asked for may stay; it cannot change.
	if spec.ServiceName != "" && (old == nil || len(v.DNSLabel(old.ServiceName, nil)) == 0) {
		errs = append(errs, v.DNSLabel(spec.ServiceName, specPath.Child("serviceName"))...)
	}
	return errs
}

func validateStrategy(s *appsv1.StatefulSetUpdateStrategy, path *field.Path) field.ErrorList {
	rolling := path.Child("rollingUpdate")
	switch s.Type {
	case "":
		return field.ErrorList{field.Required(path, "")}
	case appsv1.OnDeleteStatefulSetStrategyType:
		if s.RollingUpdate != nil {
			return field.ErrorList{field.Invalid(rolling, s.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'")}
		}
		return nil
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if s.RollingUpdate == nil {
			return nil
		}
		return validateRolling(s.RollingUpdate, rolling)
	}
	return field.ErrorList{field.Invalid(path, s, "must be 'RollingUpdate' or 'OnDelete'")}
}

func validateRolling(r *appsv1.RollingUpdateStatefulSetStrategy, path *field.Path) field.ErrorList {
	errs := workload.NonNegative(r.Partition, path.Child("partition"))
	if r.MaxUnavailable == nil {
		return errs
	}
	unavailable := path.Child("maxUnavailable")
	errs = append(errs, workload.Share(r.MaxUnavailable, unavailable)...)
	if workload.IsZero(r.MaxUnavailable) {
		errs = append(errs, field.Invalid(unavailable, *r.MaxUnavailable, "cannot be 0"))
	}
	return append(errs, workload.NotMoreThanAll(r.MaxUnavailable, unavailable)...)
}

// ValidateStatusUpdate checks that the numbers can be.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *appsv1.StatefulSet) field.ErrorList {
	s, path := &obj.Status, field.NewPath("status")
	ready := workload.Count{Name: "readyReplicas", Value: int64(s.ReadyReplicas)}
	current := workload.Count{Name: "currentReplicas", Value: int64(s.CurrentReplicas)}
	updated := workload.Count{Name: "updatedReplicas", Value: int64(s.UpdatedReplicas)}
	available := workload.Count{Name: "availableReplicas", Value: int64(s.AvailableReplicas)}
	errs := workload.Counts(path, workload.Count{Name: "replicas", Value: int64(s.Replicas)}, ready, current, updated, available,
		workload.Count{Name: "observedGeneration", Value: s.ObservedGeneration})
	errs = append(errs, workload.Collisions(s.CollisionCount, old.Status.CollisionCount, path.Child("collisionCount"))...)
	errs = append(errs, workload.AtMost(s.Replicas, "cannot be greater than status.replicas", path, ready, current, updated, available)...)
	return append(errs, workload.AtMost(s.ReadyReplicas, "cannot be greater than status.readyReplicas", path, available)...)
}
