// Package jobspec holds what a Job and the template of one in a CronJob share: defaults, what is dropped, warnings and the
// checks of the spec. Messages equal those of Kubernetes v1.37.
package jobspec

import (
	"fmt"
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	v "github.com/peapod/peapod/api/validation"
)

const (
	// maxIndexed bounds the parallelism and the failed indexes of an indexed Job.
	maxIndexed = 100_000
	// Beyond manyIndexes completions, with a limit for each index, parallelism and failures are bounded more tightly.
	manyIndexes       = 100_000
	maxWhenMany       = 10_000
	maxManagedBy      = 63
	maxFailureRules   = 20
	maxExitCodes      = 255
	maxConditions     = 20
	maxSuccessRules   = 20
	maxSuccessIndexes = 64 * 1024
)

// Default fills in what the user left out of the parts that have a default wherever they stand.
func Default(s *batchv1.JobSpec) {
	podspec.DefaultTemplate(&s.Template)
	if s.PodFailurePolicy == nil {
		return
	}
	for i := range s.PodFailurePolicy.Rules {
		conditions := s.PodFailurePolicy.Rules[i].OnPodConditions
		for j := range conditions {
			if conditions[j].Status == "" {
				conditions[j].Status = corev1.ConditionTrue
			}
		}
	}
}

// Drop clears what is not enabled, and is not in old, which is nil if nothing is replaced.
func Drop(s, old *batchv1.JobSpec) {
	if old == nil {
		s.Scheduling = nil
		podspec.DropDisabledTemplateFields(&s.Template, nil)
		return
	}
	if old.Scheduling == nil {
		s.Scheduling = nil
	}
	podspec.DropDisabledTemplateFields(&s.Template, &old.Template)
}

// Warnings warns of what is hardly meant in the spec at path.
func Warnings(s *batchv1.JobSpec, path *field.Path) []string {
	var list []string
	if Indexed(s) && ptr.Deref(s.Completions, 0) > manyIndexes && ptr.Deref(s.Parallelism, 0) > maxWhenMany {
		list = append(list, fmt.Sprintf("%s: %s", path, "In Indexed Jobs with a number of completions higher than 10^5 and a parallelism higher than 10^4, Kubernetes might not be able to track completedIndexes when a big number of indexes fail"))
	}
	return append(list, workload.TemplateWarnings(&s.Template, path.Child("template"))...)
}

// Indexed says whether each Pod of the Job has a number of its own to work on.
func Indexed(s *batchv1.JobSpec) bool {
	return s.CompletionMode != nil && *s.CompletionMode == batchv1.IndexedCompletion
}

// Validate checks a spec, but for the selector. old is the template that is replaced, nil if none is.
func Validate(s *batchv1.JobSpec, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := numbers(s, path)
	if s.ManagedBy != nil {
		errs = append(errs, managedBy(*s.ManagedBy, path.Child("managedBy"))...)
	}
	if s.CompletionMode != nil {
		errs = append(errs, v.Supported(*s.CompletionMode, path.Child("completionMode"),
			batchv1.NonIndexedCompletion, batchv1.IndexedCompletion)...)
	}
	switch {
	case Indexed(s):
		errs = append(errs, indexed(s, path)...)
	case s.CompletionMode == nil || *s.CompletionMode == batchv1.NonIndexedCompletion:
		for _, f := range []struct {
			name  string
			value *int32
		}{{"backoffLimitPerIndex", s.BackoffLimitPerIndex}, {"maxFailedIndexes", s.MaxFailedIndexes}} {
			if f.value != nil {
				errs = append(errs, field.Invalid(path.Child(f.name), *f.value, "requires indexed completion mode"))
			}
		}
	}
	if s.PodFailurePolicy != nil {
		errs = append(errs, failurePolicy(s, path.Child("podFailurePolicy"))...)
	}
	if s.SuccessPolicy != nil {
		at := path.Child("successPolicy")
		if Indexed(s) {
			errs = append(errs, successPolicy(s, at)...)
		} else {
			errs = append(errs, field.Invalid(at, *s.SuccessPolicy, "requires indexed completion mode"))
		}
	}
	errs = append(errs, replacementPolicy(s, path.Child("podReplacementPolicy"))...)
	errs = append(errs, podspec.ValidateTemplate(&s.Template, old, path.Child("template"))...)
	return append(errs, restartPolicy(s, path.Child("template", "spec", "restartPolicy"))...)
}

func numbers(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	errs := workload.NonNegative(s.Parallelism, path.Child("parallelism"))
	errs = append(errs, workload.NonNegative(s.Completions, path.Child("completions"))...)
	if s.ActiveDeadlineSeconds != nil {
		errs = append(errs, v.NonNegativeInteger(*s.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	}
	errs = append(errs, workload.NonNegative(s.BackoffLimit, path.Child("backoffLimit"))...)
	errs = append(errs, workload.NonNegative(s.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	errs = append(errs, workload.NonNegative(s.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, workload.NonNegative(s.MaxFailedIndexes, path.Child("maxFailedIndexes"))...)
	if s.MaxFailedIndexes != nil && s.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	return errs
}

func managedBy(name string, path *field.Path) field.ErrorList {
	errs := validation.IsDomainPrefixedPath(path, name)
	if len(name) > maxManagedBy {
		errs = append(errs, field.TooLong(path, name, maxManagedBy))
	}
	return errs
}

// indexed checks the bounds of an indexed Job.
func indexed(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	above := func(name string, value *int32, limit int32, msg string) {
		if value != nil && *value > limit {
			errs = append(errs, field.Invalid(path.Child(name), *value, msg))
		}
	}
	if s.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	}
	above("parallelism", s.Parallelism, maxIndexed, fmt.Sprintf("must be less than or equal to %d when completion mode is Indexed", maxIndexed))
	if s.Completions != nil {
		above("maxFailedIndexes", s.MaxFailedIndexes, *s.Completions, "must be less than or equal to completions")
	}
	above("maxFailedIndexes", s.MaxFailedIndexes, maxIndexed, fmt.Sprintf("must be less than or equal to %d", maxIndexed))
	if s.Completions == nil || *s.Completions <= manyIndexes || s.BackoffLimitPerIndex == nil {
		return errs
	}
	if s.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyIndexes)))
	}
	msg := fmt.Sprintf("must be less than or equal to %d when completions are above %d and used with backoff limit per index", maxWhenMany, manyIndexes)
	above("parallelism", s.Parallelism, maxWhenMany, msg)
	above("maxFailedIndexes", s.MaxFailedIndexes, maxWhenMany, msg)
	return errs
}

func replacementPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	allowed := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
	if s.PodFailurePolicy != nil {
		// What is still terminating has no outcome that the policy could look at.
		allowed = allowed[:1]
	}
	return v.OptionalEnum(s.PodReplacementPolicy, path, allowed...)
}

func restartPolicy(s *batchv1.JobSpec, path *field.Path) field.ErrorList {
	policy, allowed := s.Template.Spec.RestartPolicy, []corev1.RestartPolicy{corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever}
	switch {
	case policy == corev1.RestartPolicyAlways || policy == "": // The default of templates, and nothing for a Job.
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q, %q", allowed[0], allowed[1]))}
	case !slices.Contains(allowed, policy):
		return field.ErrorList{field.NotSupported(path, policy, allowed)}
	case s.PodFailurePolicy != nil && policy != corev1.RestartPolicyNever:
		return field.ErrorList{field.Invalid(path, policy, `only "Never" is supported when podFailurePolicy is specified`)}
	}
	return nil
}
