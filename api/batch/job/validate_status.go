package job

import (
	"context"
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/batch/jobspec"
)

var statusPath = field.NewPath("status")

// change is a write to a Job's status. A Job may be somebody else's to manage (spec.managedBy), and its clients rely on
// what its states mean: so the rules below hold. A rule is applied where the fields that it concerns have changed, so that
// nothing of old stands in the way of a writer that has not touched it.
type change struct {
	spec     *batchv1.JobSpec
	is, was  *batchv1.JobStatus
	isNow    conditions
	wasThen  conditions
	problems field.ErrorList
}

// conditions are those of a Job's conditions that are true.
type conditions struct{ complete, failed, failing, succeeding bool }

func conditionsOf(s *batchv1.JobStatus) conditions {
	return conditions{
		complete: isTrue(s, batchv1.JobComplete), failed: isTrue(s, batchv1.JobFailed),
		failing: isTrue(s, batchv1.JobFailureTarget), succeeding: isTrue(s, batchv1.JobSuccessCriteriaMet),
	}
}

func (c conditions) finished() bool { return c.complete || c.failed }

// ValidateStatusUpdate checks the numbers, and that a Job goes from one state to another as it may.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *batchv1.Job) field.ErrorList {
	c := &change{spec: &obj.Spec, is: &obj.Status, was: &old.Status, isNow: conditionsOf(&obj.Status), wasThen: conditionsOf(&old.Status)}
	c.counts()
	c.states()
	c.times()
	c.indexes()
	c.finish()
	c.transitions()
	return c.problems
}

// refuse notes err if broken is true.
func (c *change) refuse(broken bool, err func() *field.Error) {
	if broken {
		c.problems = append(c.problems, err())
	}
}

func invalid(name string, value any, msg string) func() *field.Error {
	return func() *field.Error { return field.Invalid(statusPath.Child(name), value, msg) }
}

func required(name, msg string) func() *field.Error {
	return func() *field.Error { return field.Required(statusPath.Child(name), msg) }
}

func badConditions(msg string) func() *field.Error {
	return invalid("conditions", field.OmitValueType{}, msg)
}

func (c *change) counts() {
	s := c.is
	c.problems = workload.Counts(statusPath, workload.Count{Name: "active", Value: int64(s.Active)},
		workload.Count{Name: "succeeded", Value: int64(s.Succeeded)}, workload.Count{Name: "failed", Value: int64(s.Failed)})
	c.problems = append(c.problems, workload.NonNegative(s.Ready, statusPath.Child("ready"))...)
	c.problems = append(c.problems, workload.NonNegative(s.Terminating, statusPath.Child("terminating"))...)
	changed := !ptr.Equal(s.Ready, c.was.Ready) || s.Active != c.was.Active
	c.refuse(changed && s.Ready != nil && *s.Ready > s.Active, invalid("ready", s.Ready, "cannot set more ready pods than active"))
	if s.UncountedTerminatedPods == nil {
		return
	}
	path, seen := statusPath.Child("uncountedTerminatedPods"), sets.New[types.UID]()
	for _, list := range []struct {
		name string
		uids []types.UID
	}{{"succeeded", s.UncountedTerminatedPods.Succeeded}, {"failed", s.UncountedTerminatedPods.Failed}} {
		for i, uid := range list.uids {
			at := path.Child(list.name).Index(i)
			switch {
			case uid == "":
				c.problems = append(c.problems, field.Invalid(at, uid, "must not be empty"))
			case seen.Has(uid):
				c.problems = append(c.problems, field.Duplicate(at, uid))
			}
			seen.Insert(uid)
		}
	}
}

// states checks the conditions that cannot be true together, or not without another.
func (c *change) states() {
	is, was := c.isNow, c.wasThen
	c.refuse((is.complete != was.complete || is.failed != was.failed) && is.complete && is.failed,
		badConditions("cannot set Complete=True and Failed=true conditions"))
	c.refuse((is.complete != was.complete || is.failing != was.failing) && is.complete && is.failing,
		badConditions("cannot set Complete=True and FailureTarget=true conditions"))
	c.refuse((is.failed != was.failed || is.failing != was.failing) && is.failed && !is.failing,
		badConditions("cannot set Failed=True condition without the FailureTarget=true condition"))
	c.refuse((is.complete != was.complete || is.succeeding != was.succeeding) && is.complete && !is.succeeding,
		badConditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition"))
	c.refuse(is.succeeding && is.failed, badConditions("cannot set SuccessCriteriaMet=True and Failed=true conditions"))
	c.refuse(is.succeeding && is.failing, badConditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions"))
	c.refuse(c.spec.SuccessPolicy != nil && !is.succeeding && is.complete,
		badConditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True"))
}

func (c *change) times() {
	s, complete := c.is, c.isNow.complete
	start, end := !equality.Semantic.DeepEqual(s.StartTime, c.was.StartTime), !equality.Semantic.DeepEqual(s.CompletionTime, c.was.CompletionTime)
	ends := end || complete != c.wasThen.complete
	c.refuse(ends && s.CompletionTime != nil && !complete,
		invalid("completionTime", s.CompletionTime, "cannot set completionTime when there is no Complete=True condition"))
	c.refuse(ends && s.CompletionTime == nil && complete, required("completionTime", "completionTime is required for Complete jobs"))
	c.refuse((start || end) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime),
		invalid("completionTime", s.CompletionTime, "completionTime cannot be set before startTime"))
	c.refuse(end && s.CompletionTime != nil && c.was.CompletionTime != nil,
		invalid("completionTime", s.CompletionTime, "completionTime cannot be mutated"))
	c.refuse(start && c.was.StartTime != nil && !ptr.Deref(c.spec.Suspend, false),
		required("startTime", "startTime cannot be removed for unsuspended job"))
	c.refuse((start || c.isNow.finished() != c.wasThen.finished()) && s.StartTime == nil && c.isNow.finished(),
		required("startTime", "startTime is required for finished job"))
}

// indexes checks the lists of indexes. Right after the Job was scaled down they may be beyond its completions.
func (c *change) indexes() {
	s := c.is
	completed, failed := s.CompletedIndexes != c.was.CompletedIndexes, !ptr.Equal(s.FailedIndexes, c.was.FailedIndexes)
	c.refuse(completed && s.CompletedIndexes != "" && !jobspec.Indexed(c.spec),
		invalid("completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode"))
	c.refuse(failed && c.spec.BackoffLimitPerIndex == nil && s.FailedIndexes != nil,
		invalid("failedIndexes", s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null"))
	if c.spec.Completions == nil || !completed && !failed {
		return
	}
	done, err := jobspec.ParseIndexes(s.CompletedIndexes, *c.spec.Completions)
	if err != nil && completed {
		c.problems = append(c.problems, invalid("completedIndexes", s.CompletedIndexes, fmt.Sprintf("error parsing completedIndexes: %s", err))())
	}
	if s.FailedIndexes == nil {
		return
	}
	lost, err := jobspec.ParseIndexes(*s.FailedIndexes, *c.spec.Completions)
	if err != nil && failed && c.spec.BackoffLimitPerIndex != nil {
		c.problems = append(c.problems, invalid("failedIndexes", s.FailedIndexes, fmt.Sprintf("error parsing failedIndexes: %s", err))())
	}
	if index, found := done.Overlap(lost); found {
		c.problems = append(c.problems, invalid("failedIndexes", s.FailedIndexes,
			fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", index))())
	}
}

// finish checks that nothing is left of a Job that is over.
func (c *change) finish() {
	s, over := c.is, c.isNow.finished()
	ends := over != c.wasThen.finished()
	c.refuse(over && s.Active > 0 && (ends || s.Active != c.was.Active), invalid("active", s.Active, "active>0 is invalid for finished job"))
	c.refuse(over && ptr.Deref(s.Terminating, 0) > 0 && (ends || !ptr.Equal(s.Terminating, c.was.Terminating)),
		invalid("terminating", s.Terminating, "terminating>0 is invalid for finished job"))
	uncounted := s.UncountedTerminatedPods
	c.refuse(over && uncounted != nil && len(uncounted.Failed)+len(uncounted.Succeeded) > 0 &&
		(ends || !equality.Semantic.DeepEqual(uncounted, c.was.UncountedTerminatedPods)),
		invalid("uncountedTerminatedPods", uncounted, "uncountedTerminatedPods needs to be empty for finished job"))
}

// transitions checks what does not go back.
func (c *change) transitions() {
	is, was := c.isNow, c.wasThen
	c.refuse(was.failed && !is.failed, badConditions("cannot disable the terminal Failed=True condition"))
	c.refuse(was.complete && !is.complete, badConditions("cannot disable the terminal Complete=True condition"))
	c.refuse(was.failing && !is.failing, badConditions("cannot disable the terminal FailureTarget=True condition"))
	c.refuse(was.succeeding && !is.succeeding, badConditions("cannot disable the SuccessCriteriaMet=True condition"))
	c.refuse(was.complete && !was.succeeding && is.succeeding,
		badConditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions"))
	c.refuse(c.is.Failed < c.was.Failed, invalid("failed", c.is.Failed, "cannot decrease the failed counter"))
	// An indexed Job with as many completions as Pods at a time can be scaled down.
	elastic := jobspec.Indexed(c.spec) && ptr.Equal(c.spec.Completions, c.spec.Parallelism)
	c.refuse(!elastic && c.is.Succeeded < c.was.Succeeded, invalid("succeeded", c.is.Succeeded, "cannot decrease the succeeded counter"))
}
