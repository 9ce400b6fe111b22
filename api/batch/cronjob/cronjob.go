// Package cronjob declares batch/v1 CronJob.
package cronjob

import (
	"context"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/batch/jobspec"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[batchv1.CronJob](resource.Declaration{
		GVK:        batchv1.SchemeGroupVersion.WithKind("CronJob"),
		Plural:     "cronjobs",
		ShortNames: []string{"cj"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &batchv1.CronJobList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*batchv1.CronJob]       = kind{}
	_ resource.CreatePreparer[*batchv1.CronJob]  = kind{}
	_ resource.UpdatePreparer[*batchv1.CronJob]  = kind{}
	_ resource.Validator[*batchv1.CronJob]       = kind{}
	_ resource.UpdateValidator[*batchv1.CronJob] = kind{}
	_ resource.Warner[*batchv1.CronJob]          = kind{}
	_ resource.Printer[*batchv1.CronJob]         = kind{}
)

const (
	defaultSucceeded = 3
	defaultFailed    = 1
)

// Default fills in the policy and how many Jobs are kept. The Jobs' own defaults are filled in when they are made.
func (kind) Default(obj *batchv1.CronJob) {
	s := &obj.Spec
	if s.ConcurrencyPolicy == "" {
		s.ConcurrencyPolicy = batchv1.AllowConcurrent
	}
	if s.Suspend == nil {
		s.Suspend = ptr.To(false)
	}
	if s.SuccessfulJobsHistoryLimit == nil {
		s.SuccessfulJobsHistoryLimit = ptr.To[int32](defaultSucceeded)
	}
	if s.FailedJobsHistoryLimit == nil {
		s.FailedJobsHistoryLimit = ptr.To[int32](defaultFailed)
	}
	jobspec.Default(&s.JobTemplate.Spec)
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *batchv1.CronJob) {
	jobspec.Drop(&obj.Spec.JobTemplate.Spec, nil)
}

// PrepareForUpdate drops what is not enabled and was not there.
func (kind) PrepareForUpdate(_ context.Context, obj, old *batchv1.CronJob) {
	jobspec.Drop(&obj.Spec.JobTemplate.Spec, &old.Spec.JobTemplate.Spec)
}

// Warnings warns of a new name, of a new or changed template, and of a time zone in the wrong place.
func (kind) Warnings(_ context.Context, obj, old *batchv1.CronJob) []string {
	var list []string
	if old == nil {
		list = workload.NameWarnings(obj.Name)
	}
	if old == nil || old.Generation != obj.Generation {
		list = append(list, jobspec.Warnings(&obj.Spec.JobTemplate.Spec, specPath.Child("jobTemplate", "spec"))...)
	}
	if strings.Contains(obj.Spec.Schedule, zoneMark) {
		list = append(list, "CRON_TZ or TZ used in spec.schedule is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details")
	}
	return list
}

// Columns are those of `kubectl get cronjobs`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := batchv1.CronJobSpec{}.SwaggerDoc(), batchv1.CronJobStatus{}.SwaggerDoc()
	return workload.Columns([]metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Schedule", spec["schedule"]),
		table.Text("Timezone", spec["timeZone"]),
		{Name: "Suspend", Type: "boolean", Description: spec["suspend"]},
		table.Integer("Active", status["active"]),
		table.Text("Last Schedule", status["lastScheduleTime"]),
		table.Age(),
	}, workload.ContainerColumns(), []metav1.TableColumnDefinition{
		table.Wide(table.Text("Selector", batchv1.JobSpec{}.SwaggerDoc()["selector"])),
	})
}

// Row is one line of the table.
func (kind) Row(obj *batchv1.CronJob) ([]any, error) {
	names, images := workload.Containers(&obj.Spec.JobTemplate.Spec.Template)
	suspended := "<unset>"
	if s := obj.Spec.Suspend; s != nil {
		suspended = map[bool]string{true: "True", false: "False"}[*s]
	}
	last := table.None
	if t := obj.Status.LastScheduleTime; t != nil {
		last = table.Since(*t)
	}
	return []any{
		obj.Name, obj.Spec.Schedule, table.OrNone(ptr.Deref(obj.Spec.TimeZone, "")), suspended, int64(len(obj.Status.Active)),
		last, table.Since(obj.CreationTimestamp), names, images, metav1.FormatLabelSelector(obj.Spec.JobTemplate.Spec.Selector),
	}, nil
}
