package job

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/batch/jobspec"
	v "github.com/peapod/peapod/api/validation"
)

// Validate checks a new Job.
func (kind) Validate(_ context.Context, obj *batchv1.Job) field.ErrorList {
	return validate(obj, nil)
}

// validate checks obj; old is the Job that is replaced, nil if none is.
func validate(obj, old *batchv1.Job) field.ErrorList {
	errs := generated(obj, old)
	var was *corev1.PodTemplateSpec
	if old != nil {
		was = &old.Spec.Template
	}
	errs = append(errs, jobspec.Validate(&obj.Spec, was, specPath)...)
	if obj.Spec.Selector == nil {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	} else {
		errs = append(errs, v.LabelSelector(obj.Spec.Selector, false, specPath.Child("selector"))...)
	}
	if s, err := metav1.LabelSelectorAsSelector(obj.Spec.Selector); err == nil && !s.Matches(labels.Set(obj.Spec.Template.Labels)) {
		errs = append(errs, field.Invalid(specPath.Child("template", "metadata", "labels"), obj.Spec.Template.Labels, workload.Unmatched))
	}
	if n := obj.Spec.Completions; jobspec.Indexed(&obj.Spec) && n != nil && *n > 0 {
		// Each Pod's host name is the Job's with the index at its end.
		if host := fmt.Sprintf("%s-%d", obj.Name, *n-1); len(validation.IsDNS1123Label(host)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.Name,
				"will not able to create pod with invalid DNS label: "+host))
		}
	}
	return errs
}

// generated checks that a selector that is made for the user, and the labels that go with it, are what was made.
func generated(obj, old *batchv1.Job) field.ErrorList {
	if ptr.Deref(obj.Spec.ManualSelector, false) || obj.Spec.Selector == nil {
		return nil
	}
	var errs field.ErrorList
	if obj.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	want := []struct{ key, value string }{
		{legacyUIDLabel, string(obj.UID)}, {legacyNameLabel, obj.Name},
		{batchv1.ControllerUidLabel, string(obj.UID)}, {batchv1.JobNameLabel, obj.Name},
	}
	if old != nil {
		_, name := old.Spec.Template.Labels[batchv1.JobNameLabel]
		_, uid := old.Spec.Template.Labels[batchv1.ControllerUidLabel]
		if !name || !uid { // From before there were those.
			want = want[:2]
		}
	}
	expected, path := labels.Set{}, specPath.Child("template", "metadata", "labels")
	for _, w := range want {
		expected[w.key] = w.value
		msg := fmt.Sprintf("must be '%s'", w.value)
		if got, found := obj.Spec.Template.Labels[w.key]; !found {
			errs = append(errs, field.Required(path.Key(w.key), msg))
		} else if got != w.value {
			errs = append(errs, field.Invalid(path.Key(w.key), obj.Spec.Template.Labels, msg))
		}
	}
	if s, err := metav1.LabelSelectorAsSelector(obj.Spec.Selector); err == nil && !s.Matches(expected) {
		errs = append(errs, field.Invalid(specPath.Child("selector"), obj.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// ValidateUpdate checks a changed Job, of which little may change once it runs.
func (kind) ValidateUpdate(_ context.Context, obj, old *batchv1.Job) field.ErrorList {
	errs := validate(obj, old)
	s, was := &obj.Spec, &old.Spec
	errs = append(errs, completionsUpdate(s, was)...)
	errs = append(errs, templateUpdate(obj, old)...)
	for _, f := range []struct {
		name     string
		is, have any
	}{
		{"selector", s.Selector, was.Selector}, {"completionMode", s.CompletionMode, was.CompletionMode},
		{"podFailurePolicy", s.PodFailurePolicy, was.PodFailurePolicy},
		{"backoffLimitPerIndex", s.BackoffLimitPerIndex, was.BackoffLimitPerIndex},
		{"managedBy", s.ManagedBy, was.ManagedBy}, {"successPolicy", s.SuccessPolicy, was.SuccessPolicy},
		{"scheduling", s.Scheduling, was.Scheduling},
	} {
		errs = append(errs, apivalidation.ValidateImmutableField(f.is, f.have, specPath.Child(f.name))...)
	}
	return errs
}

// completionsUpdate lets an indexed Job be scaled: as many completions as Pods at a time.
func completionsUpdate(s, was *batchv1.JobSpec) field.ErrorList {
	path := specPath.Child("completions")
	if !jobspec.Indexed(s) {
		return apivalidation.ValidateImmutableField(s.Completions, was.Completions, path)
	}
	if s.Completions == nil || ptr.Equal(s.Completions, was.Completions) || ptr.Equal(s.Completions, s.Parallelism) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *s.Completions, "can only be modified in tandem with spec.parallelism")}
}

// templateUpdate lets those who queue Jobs say, as long as no Pod of it is there, where the Pods of a suspended Job will
// run and with how much.
func templateUpdate(obj, old *batchv1.Job) field.ErrorList {
	was := &old.Spec.Template
	if ptr.Deref(old.Spec.Suspend, false) && old.Status.Active == 0 &&
		(old.Status.StartTime == nil || isTrue(&old.Status, batchv1.JobSuspended)) {
		was = was.DeepCopy()
		is := &obj.Spec.Template
		was.Labels, was.Annotations = is.Labels, is.Annotations
		was.Spec.NodeSelector, was.Spec.Tolerations, was.Spec.SchedulingGates = is.Spec.NodeSelector, is.Spec.Tolerations, is.Spec.SchedulingGates
		was.Spec.Affinity = withNodeAffinity(was.Spec.Affinity, is.Spec.Affinity)
		takeResources(was.Spec.Containers, is.Spec.Containers)
		takeResources(was.Spec.InitContainers, is.Spec.InitContainers)
	}
	return apivalidation.ValidateImmutableField(&obj.Spec.Template, was, specPath.Child("template"))
}

// withNodeAffinity is a, which it may change, with the node affinity of other.
func withNodeAffinity(a, other *corev1.Affinity) *corev1.Affinity {
	if a == nil {
		if other == nil {
			return nil
		}
		a = &corev1.Affinity{}
	}
	a.NodeAffinity = nil
	if other != nil {
		a.NodeAffinity = other.NodeAffinity
	} else if equality.Semantic.DeepEqual(*a, corev1.Affinity{}) {
		return nil
	}
	return a
}

// takeResources gives each of containers the resources of the one of the same name in other.
func takeResources(containers, other []corev1.Container) {
	for i := range containers {
		for j := range other {
			if other[j].Name == containers[i].Name {
				containers[i].Resources = other[j].Resources
			}
		}
	}
}
