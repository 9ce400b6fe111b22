package job

import (
	"fmt"
	"math"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// end is how a Job is to end.
type end struct {
	success         bool
	reason, message string
}

// goal returns how the Job is to end, as its status says already or as is seen now; nil if it goes on.
func (s *survey) goal() *end {
	st := &s.out.status
	if c := find(st, batchv1.JobFailureTarget); c != nil {
		return &end{false, c.Reason, c.Message}
	}
	if c := find(st, batchv1.JobSuccessCriteriaMet); c != nil {
		return &end{true, c.Reason, c.Message}
	}
	if e := s.failure(); e != nil {
		return e
	}
	if i := succeeds(s.job.Spec.SuccessPolicy, s.completed, s.completions); i >= 0 {
		return &end{true, batchv1.JobReasonSuccessPolicy, fmt.Sprintf("Matched rules at index %d", i)}
	}
	enough := s.successes() >= s.completions
	if s.completions == math.MaxInt {
		enough = s.successes() > 0
	}
	if enough && len(s.active) == 0 && !ptr.Deref(s.job.Spec.Suspend, false) {
		return &end{true, batchv1.JobReasonCompletionsReached, "Reached expected number of succeeded pods"}
	}
	return nil
}

// failure returns why the Job fails; nil if it does not.
func (s *survey) failure() *end {
	spec := &s.job.Spec
	failed := int(s.out.status.Failed) + len(s.uncountedFails)
	limit := int(ptr.Deref(spec.BackoffLimit, 6))
	switch {
	case s.failJob != "":
		return &end{false, batchv1.JobReasonPodFailurePolicy, s.failJob}
	case failed > limit, s.restartedTooOften(limit):
		return &end{false, batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit"}
	}
	if spec.ActiveDeadlineSeconds != nil && s.out.status.StartTime != nil && !ptr.Deref(spec.Suspend, false) {
		if !s.wait(s.out.status.StartTime.Add(time.Duration(*spec.ActiveDeadlineSeconds) * time.Second)) {
			return &end{false, batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline"}
		}
	}
	if !s.perIndex() {
		return nil
	}
	switch {
	case spec.MaxFailedIndexes != nil && len(s.failedIndexes) > int(*spec.MaxFailedIndexes):
		return &end{false, batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes"}
	case len(s.failedIndexes) > 0 && len(s.failedIndexes)+len(s.completed) >= s.completions:
		return &end{false, batchv1.JobReasonFailedIndexes, "Job has failed indexes"}
	}
	return nil
}

// restartedTooOften says whether containers that restart in place did so too often.
func (s *survey) restartedTooOften(limit int) bool {
	if s.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	n := 0
	for _, p := range s.active {
		for _, list := range [][]corev1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses} {
			for _, c := range list {
				n += int(c.RestartCount)
			}
		}
	}
	return n > 0 && n >= limit
}

// end ends the Job: how is written down, then what runs is deleted, and when all Pods are gone or counted the last word is said. Pods
// that were deleted first would count as failed, and make a success a failure where the status is refused.
func (s *survey) end(e end) {
	st := &s.out.status
	target, last := batchv1.JobFailureTarget, batchv1.JobFailed
	if e.success {
		target, last = batchv1.JobSuccessCriteriaMet, batchv1.JobComplete
	}
	if !isTrue(st, target) {
		s.set(target, corev1.ConditionTrue, e.reason, e.message)
	} else {
		s.out.remove = s.active
	}
	if len(s.active) > 0 || len(s.terminating) > 0 || s.tracked > 0 || len(s.out.untrack) > 0 || len(s.uncountedFails)+len(s.uncountedSuccess) > 0 {
		return
	}
	s.set(last, corev1.ConditionTrue, e.reason, e.message)
	if e.success {
		st.CompletionTime = ptr.To(metav1.NewTime(s.now))
		s.tell(corev1.EventTypeNormal, "Completed", "Job completed")
	} else {
		s.tell(corev1.EventTypeWarning, e.reason, e.message)
	}
	s.out.again = time.Time{}
}

// Back-off between failures, as upstream's: doubled with each that no success came after.
const (
	backoffFirst = 10 * time.Second
	backoffMax   = 10 * time.Minute
)

// notBefore is when the next Pod may be made, after these failures.
func (s *survey) notBefore(failed []*corev1.Pod) time.Time {
	n, last := 0, time.Time{}
	for _, p := range failed {
		at := endedAt(p)
		if !s.perIndex() && !at.After(s.succeededAt) {
			continue
		}
		n++
		if at.After(last) {
			last = at
		}
	}
	if s.perIndex() && len(failed) == 1 {
		counted, _ := failures(failed[0])
		n = counted + 1
	}
	if n == 0 {
		return time.Time{}
	}
	d := backoffMax
	if n < 8 {
		d = min(backoffMax, backoffFirst<<(n-1))
	}
	return last.Add(d)
}

// endedAt is when the last container of the Pod ended, or what comes nearest to it.
func endedAt(p *corev1.Pod) time.Time {
	var last time.Time
	for _, c := range p.Status.ContainerStatuses {
		if t := c.State.Terminated; t != nil && t.FinishedAt.After(last) {
			last = t.FinishedAt.Time
		}
	}
	if !last.IsZero() {
		return last
	}
	if p.DeletionTimestamp != nil {
		return p.DeletionTimestamp.Add(-time.Duration(ptr.Deref(p.DeletionGracePeriodSeconds, 0)) * time.Second)
	}
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady && c.LastTransitionTime.After(last) {
			last = c.LastTransitionTime.Time
		}
	}
	if last.IsZero() {
		return p.CreationTimestamp.Time
	}
	return last
}
