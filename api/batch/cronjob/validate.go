package cronjob

import (
	"context"
	"fmt"
	"regexp"
	"strings"
	"time"
	// Time zones must be known on machines without a database of them.
	_ "time/tzdata"

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/batch/jobspec"
	v "github.com/peapod/peapod/api/validation"
)

// maxName leaves room for what the names of the Jobs end in, within the 63 characters of a label's value.
const maxName = 52

// zoneMark is in every schedule that begins with a time zone of its own, which is not the way to give one.
const zoneMark = "TZ"

var specPath = field.NewPath("spec")

// Validate checks a new CronJob.
func (kind) Validate(_ context.Context, obj *batchv1.CronJob) field.ErrorList {
	errs := validateSpec(&obj.Spec, nil)
	if len(obj.Name) > maxName {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), obj.Name, fmt.Sprintf("must be no more than %d characters", maxName)))
	}
	return errs
}

// ValidateUpdate checks a changed one.
func (kind) ValidateUpdate(_ context.Context, obj, old *batchv1.CronJob) field.ErrorList {
	return validateSpec(&obj.Spec, &old.Spec)
}

func validateSpec(spec, old *batchv1.CronJobSpec) field.ErrorList {
	var errs field.ErrorList
	if spec.Schedule == "" {
		errs = append(errs, field.Required(specPath.Child("schedule"), ""))
	} else {
		errs = append(errs, validateSchedule(spec, old != nil && strings.Contains(old.Schedule, zoneMark), specPath.Child("schedule"))...)
	}
	if spec.StartingDeadlineSeconds != nil {
		errs = append(errs, v.NonNegativeInteger(*spec.StartingDeadlineSeconds, specPath.Child("startingDeadlineSeconds"))...)
	}
	if spec.TimeZone != nil && (old == nil || !ptr.Equal(old.TimeZone, spec.TimeZone)) {
		errs = append(errs, validateZone(*spec.TimeZone, specPath.Child("timeZone"))...)
	}
	errs = append(errs, v.Enum(spec.ConcurrencyPolicy, specPath.Child("concurrencyPolicy"),
		batchv1.AllowConcurrent, batchv1.ForbidConcurrent, batchv1.ReplaceConcurrent)...)
	var was *corev1.PodTemplateSpec
	if old != nil {
		was = &old.JobTemplate.Spec.Template
	}
	errs = append(errs, validateTemplate(&spec.JobTemplate.Spec, was, specPath.Child("jobTemplate", "spec"))...)
	errs = append(errs, workload.NonNegative(spec.SuccessfulJobsHistoryLimit, specPath.Child("successfulJobsHistoryLimit"))...)
	return append(errs, workload.NonNegative(spec.FailedJobsHistoryLimit, specPath.Child("failedJobsHistoryLimit"))...)
}

// validateSchedule checks the schedule; zoneAllowed says that the old one has a time zone in it.
func validateSchedule(spec *batchv1.CronJobSpec, zoneAllowed bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if err := parseSchedule(spec.Schedule); err != nil {
		errs = append(errs, field.Invalid(path, spec.Schedule, err.Error()))
	}
	if !strings.Contains(spec.Schedule, zoneMark) {
		return errs
	}
	switch {
	case !zoneAllowed:
		errs = append(errs, field.Invalid(path, spec.Schedule, "cannot use TZ or CRON_TZ in schedule, use timeZone field instead"))
	case spec.TimeZone != nil:
		errs = append(errs, field.Invalid(path, spec.Schedule, "cannot use both timeZone field and TZ or CRON_TZ in schedule"))
	}
	return errs
}

// parseSchedule keeps from the parser a time zone that nothing follows, at which it would panic.
func parseSchedule(schedule string) error {
	if strings.HasPrefix(schedule, "TZ=") || strings.HasPrefix(schedule, "CRON_TZ=") {
		if !strings.Contains(schedule, " ") {
			return fmt.Errorf("expected exactly 5 fields, found 0: []")
		}
	}
	_, err := cron.ParseStandard(schedule)
	return err
}

// zonePart is one of the parts of a time zone's name between slashes, legacy ones with digits among them.
var zonePart = regexp.MustCompile(`^[A-Za-z\.\-_0-9+]{1,14}$`)

func validateZone(zone string, path *field.Path) field.ErrorList {
	if zone == "" {
		return field.ErrorList{field.Invalid(path, zone, "timeZone must be nil or non-empty string")}
	}
	for part := range strings.SplitSeq(zone, "/") {
		if part == "." || part == ".." || strings.HasPrefix(part, "-") || !zonePart.MatchString(part) {
			return field.ErrorList{field.Invalid(path, zone, "unknown time zone "+zone)}
		}
	}
	var errs field.ErrorList
	if strings.EqualFold(zone, "Local") {
		errs = append(errs, field.Invalid(path, zone, "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones"))
	}
	if _, err := time.LoadLocation(zone); err != nil {
		errs = append(errs, field.Invalid(path, zone, err.Error()))
	}
	return errs
}

// validateTemplate checks the spec of the Jobs, whose selectors are always made for them.
func validateTemplate(s *batchv1.JobSpec, old *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	errs := jobspec.Validate(s, old, path)
	if s.Selector != nil {
		errs = append(errs, field.Invalid(path.Child("selector"), s.Selector, "`selector` will be auto-generated"))
	}
	if ptr.Deref(s.ManualSelector, false) {
		errs = append(errs, field.NotSupported(path.Child("manualSelector"), *s.ManualSelector, []string{"nil", "false"}))
	}
	return errs
}
