// Package job declares batch/v1 Job.
package job

import (
	"context"
	"fmt"
	"maps"
	"math"
	"strconv"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/batch/jobspec"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[batchv1.Job](resource.Declaration{
		GVK:        batchv1.SchemeGroupVersion.WithKind("Job"),
		Plural:     "jobs",
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &batchv1.JobList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*batchv1.Job]       = kind{}
	_ resource.CreatePreparer[*batchv1.Job]  = kind{}
	_ resource.UpdatePreparer[*batchv1.Job]  = kind{}
	_ resource.Validator[*batchv1.Job]       = kind{}
	_ resource.UpdateValidator[*batchv1.Job] = kind{}
	_ resource.StatusValidator[*batchv1.Job] = kind{}
	_ resource.Warner[*batchv1.Job]          = kind{}
	_ resource.Selectable[*batchv1.Job]      = kind{}
	_ resource.GarbageCollected              = kind{}
	_ resource.Printer[*batchv1.Job]         = kind{}
)

// The labels from before those of Kubernetes had a prefix. Pods have both.
const (
	legacyNameLabel = "job-name"
	legacyUIDLabel  = "controller-uid"
)

const defaultBackoffLimit = 6

var specPath = field.NewPath("spec")

// Default fills in the numbers and the modes, and takes the object's own labels from the template if it has none.
func (kind) Default(obj *batchv1.Job) {
	s := &obj.Spec
	jobspec.Default(s)
	if s.Completions == nil && s.Parallelism == nil {
		s.Completions = ptr.To[int32](1)
	}
	if s.Parallelism == nil {
		s.Parallelism = ptr.To[int32](1)
	}
	if s.BackoffLimit == nil {
		s.BackoffLimit = ptr.To[int32](defaultBackoffLimit)
		if s.BackoffLimitPerIndex != nil {
			s.BackoffLimit = ptr.To[int32](math.MaxInt32)
		}
	}
	if len(obj.Labels) == 0 {
		obj.Labels = maps.Clone(s.Template.Labels)
	}
	if s.CompletionMode == nil {
		s.CompletionMode = ptr.To(batchv1.NonIndexedCompletion)
	}
	if s.Suspend == nil {
		s.Suspend = ptr.To(false)
	}
	if s.ManualSelector == nil {
		s.ManualSelector = ptr.To(false)
	}
	if s.PodReplacementPolicy == nil {
		s.PodReplacementPolicy = ptr.To(batchv1.TerminatingOrFailed)
		if s.PodFailurePolicy != nil {
			s.PodReplacementPolicy = ptr.To(batchv1.Failed)
		}
	}
}

// PrepareForCreate drops what is not enabled and makes the selector, unless the user makes it.
func (kind) PrepareForCreate(_ context.Context, obj *batchv1.Job) {
	if !ptr.Deref(obj.Spec.ManualSelector, false) {
		// Labels that come from the template come from the whole of it.
		shared := len(obj.Labels) > 0 && equality.Semantic.DeepEqual(obj.Labels, obj.Spec.Template.Labels)
		generateSelector(obj)
		if shared {
			obj.Labels = maps.Clone(obj.Spec.Template.Labels)
		}
	}
	jobspec.Drop(&obj.Spec, nil)
}

// generateSelector labels the template with the Job's name and UID and selects by the UID. Values that the user has set
// are left to validation.
func generateSelector(obj *batchv1.Job) {
	labels := map[string]string{
		legacyNameLabel: obj.Name, batchv1.JobNameLabel: obj.Name,
		legacyUIDLabel: string(obj.UID), batchv1.ControllerUidLabel: string(obj.UID),
	}
	maps.Copy(labels, obj.Spec.Template.Labels)
	obj.Spec.Template.Labels = labels
	if obj.Spec.Selector == nil {
		obj.Spec.Selector = &metav1.LabelSelector{}
	}
	selected := map[string]string{batchv1.ControllerUidLabel: string(obj.UID)}
	maps.Copy(selected, obj.Spec.Selector.MatchLabels)
	obj.Spec.Selector.MatchLabels = selected
}

// PrepareForUpdate drops what is not enabled and was not there.
func (kind) PrepareForUpdate(_ context.Context, obj, old *batchv1.Job) {
	jobspec.Drop(&obj.Spec, &old.Spec)
}

// DefaultGarbageCollectionPolicy leaves the Pods alone, as ever.
func (kind) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	return rest.OrphanDependents
}

// Warnings warns of a new name and of a new or changed spec.
func (kind) Warnings(_ context.Context, obj, old *batchv1.Job) []string {
	if old != nil && old.Generation == obj.Generation {
		return nil
	}
	list := jobspec.Warnings(&obj.Spec, specPath)
	if old != nil {
		return list
	}
	return append(workload.NameWarnings(obj.Name), list...)
}

// SelectableFields offers the number of Pods that have succeeded.
func (kind) SelectableFields(obj *batchv1.Job) fields.Set {
	return fields.Set{"status.successful": strconv.Itoa(int(obj.Status.Succeeded))}
}

// Columns are those of `kubectl get jobs`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := batchv1.JobSpec{}.SwaggerDoc(), batchv1.JobStatus{}.SwaggerDoc()
	return workload.Columns([]metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Status", "Status of the job."),
		table.Text("Completions", status["succeeded"]),
		table.Text("Duration", "Time required to complete the job."),
		table.Age(),
	}, workload.ContainerColumns(), []metav1.TableColumnDefinition{
		table.Wide(table.Text("Selector", spec["selector"])),
	})
}

// Row is one line of the table.
func (kind) Row(obj *batchv1.Job) ([]any, error) {
	names, images := workload.Containers(&obj.Spec.Template)
	return []any{
		obj.Name, state(obj), completions(obj), took(&obj.Status), table.Since(obj.CreationTimestamp),
		names, images, metav1.FormatLabelSelector(obj.Spec.Selector),
	}, nil
}

// state is the first thing to be said of a Job.
func state(obj *batchv1.Job) string {
	for _, c := range []batchv1.JobConditionType{batchv1.JobComplete, batchv1.JobFailed} {
		if isTrue(&obj.Status, c) {
			return string(c)
		}
	}
	if obj.DeletionTimestamp != nil {
		return "Terminating"
	}
	for _, c := range []batchv1.JobConditionType{batchv1.JobSuspended, batchv1.JobFailureTarget, batchv1.JobSuccessCriteriaMet} {
		if isTrue(&obj.Status, c) {
			return string(c)
		}
	}
	return "Running"
}

// completions says how many Pods have succeeded, of how many. Without a number to reach, one that succeeds is enough.
func completions(obj *batchv1.Job) string {
	if n := obj.Spec.Completions; n != nil {
		return fmt.Sprintf("%d/%d", obj.Status.Succeeded, *n)
	}
	if n := ptr.Deref(obj.Spec.Parallelism, 0); n > 1 {
		return fmt.Sprintf("%d/1 of %d", obj.Status.Succeeded, n)
	}
	return fmt.Sprintf("%d/1", obj.Status.Succeeded)
}

func took(s *batchv1.JobStatus) string {
	switch {
	case s.StartTime == nil:
		return ""
	case s.CompletionTime == nil:
		return duration.HumanDuration(time.Since(s.StartTime.Time))
	}
	return duration.HumanDuration(s.CompletionTime.Sub(s.StartTime.Time))
}

// isTrue says whether the Job has a condition of the type that is true.
func isTrue(s *batchv1.JobStatus, t batchv1.JobConditionType) bool {
	for _, c := range s.Conditions {
		if c.Type == t && c.Status == corev1.ConditionTrue {
			return true
		}
	}
	return false
}
