package job

import (
	"math"
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/pods"
)

// decision is what is to be done about a Job. Its parts are done in this order: Pods are deleted and made, the status is
// written, and only then Pods are let go that it counts.
type decision struct {
	remove []*corev1.Pod
	// create are the Pods to make, as many as the list is long.
	create  []order
	status  batchv1.JobStatus
	untrack []*corev1.Pod
	events  []event
	// again is when the Job is to be looked at though nothing happens; zero for never.
	again time.Time
}

// order is one Pod to make.
type order struct {
	index int // -1 where the Job is not indexed
	// failures and ignored are those of the index so far, where they are counted.
	failures, ignored int
}

type event struct{ kind, reason, message string }

// survey is a Job with its Pods sorted by what they are to it.
type survey struct {
	job         *batchv1.Job
	completions int // math.MaxInt where any success completes the Job
	now         time.Time
	out         decision

	active, terminating []*corev1.Pod
	// failed are the Pods that count as failed, terminal or being deleted.
	failed []*corev1.Pod
	// succeededAt is when the last Pod succeeded.
	succeededAt time.Time
	// tracked is how many Pods still have the finalizer after this sync.
	tracked                          int
	completed, failedIndexes         indexes
	uncountedSuccess, uncountedFails []types.UID
	// failJob is why the failure policy fails the Job; empty if it does not.
	failJob string
}

// onlyFailed says whether Pods are replaced, and counted, only once they have really ended.
func onlyFailed(j *batchv1.Job) bool {
	return ptr.Deref(j.Spec.PodReplacementPolicy, batchv1.TerminatingOrFailed) == batchv1.Failed || j.Spec.PodFailurePolicy != nil
}

func (s *survey) perIndex() bool { return s.job.Spec.BackoffLimitPerIndex != nil && isIndexed(s.job) }

// hasFailed says whether a Pod counts as failed.
func (s *survey) hasFailed(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodFailed ||
		p.DeletionTimestamp != nil && p.Status.Phase != corev1.PodSucceeded && !onlyFailed(s.job)
}

func isTracked(p *corev1.Pod) bool {
	return slices.Contains(p.Finalizers, batchv1.JobTrackingFinalizer)
}

// decide decides. Job and Pods are at least as new as what was last written for the Job.
func decide(j *batchv1.Job, list []*corev1.Pod, now time.Time) decision {
	s := &survey{job: j, completions: math.MaxInt, now: now}
	s.out.status = *j.Status.DeepCopy()
	if j.Spec.Completions != nil {
		s.completions = int(*j.Spec.Completions)
	}
	s.sort(list)
	s.count(list)
	s.begin()
	switch goal := s.goal(); {
	case goal != nil:
		s.end(*goal)
	case ptr.Deref(j.Spec.Suspend, false):
		s.out.remove = s.active
	case j.DeletionTimestamp == nil:
		s.manage()
	}
	s.describe()
	return s.out
}

func (s *survey) sort(list []*corev1.Pod) {
	for _, p := range list {
		if pods.Active(p) {
			s.active = append(s.active, p)
		}
		if pods.Terminating(p) {
			s.terminating = append(s.terminating, p)
		}
		if s.hasFailed(p) {
			s.failed = append(s.failed, p)
		}
		if at := endedAt(p); p.Status.Phase == corev1.PodSucceeded && at.After(s.succeededAt) {
			s.succeededAt = at
		}
	}
	if isIndexed(s.job) {
		s.completed = parseIndexes(s.job.Status.CompletedIndexes, s.completions)
		s.failedIndexes = parseIndexes(ptr.Deref(s.job.Status.FailedIndexes, ""), s.completions)
	}
}

// count takes in which Pods have ended. A Pod's end is written down by its UID before the Pod is let go, and becomes a
// number when the Pod is seen to be: so it is counted once, whenever the controller stops.
func (s *survey) count(list []*corev1.Pod) {
	held := map[types.UID]bool{}
	for _, p := range list {
		held[p.UID] = isTracked(p)
	}
	if u := s.job.Status.UncountedTerminatedPods; u != nil {
		for _, uid := range u.Succeeded {
			if held[uid] {
				s.uncountedSuccess = append(s.uncountedSuccess, uid)
			} else {
				s.out.status.Succeeded++
			}
		}
		for _, uid := range u.Failed {
			if held[uid] {
				s.uncountedFails = append(s.uncountedFails, uid)
			} else {
				s.out.status.Failed++
			}
		}
	}
	for _, p := range list {
		switch {
		case !isTracked(p):
		case p.Status.Phase == corev1.PodSucceeded:
			s.countSuccess(p)
		case s.hasFailed(p):
			s.countFailure(p)
		default:
			s.tracked++
		}
	}
	s.releaseFailed()
	if isIndexed(s.job) {
		s.out.status.Succeeded = int32(len(s.completed))
		s.out.status.CompletedIndexes = s.completed.String()
		if s.perIndex() {
			s.out.status.FailedIndexes = ptr.To(s.failedIndexes.String())
		}
	}
	s.out.status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{Succeeded: s.uncountedSuccess, Failed: s.uncountedFails}
}

func (s *survey) countSuccess(p *corev1.Pod) {
	s.out.untrack = append(s.out.untrack, p)
	if isIndexed(s.job) {
		// The index says that it is counted.
		if i := indexOf(p); i >= 0 && i < s.completions {
			s.completed[i] = true
			delete(s.failedIndexes, i)
		}
	} else if !slices.Contains(s.uncountedSuccess, p.UID) {
		s.uncountedSuccess = append(s.uncountedSuccess, p.UID)
	}
}

func (s *survey) countFailure(p *corev1.Pod) {
	i := indexOf(p)
	valid := !isIndexed(s.job) || i >= 0 && i < s.completions
	v := judge(s.job.Spec.PodFailurePolicy, p)
	if v.action == batchv1.PodFailurePolicyActionFailJob && s.failJob == "" {
		s.failJob = v.why
	}
	if !valid || v.action == batchv1.PodFailurePolicyActionIgnore {
		return
	}
	if !slices.Contains(s.uncountedFails, p.UID) {
		s.uncountedFails = append(s.uncountedFails, p.UID)
	}
	if s.perIndex() && !s.completed[i] {
		counted, _ := failures(p)
		if v.action == batchv1.PodFailurePolicyActionFailIndex || counted >= int(*s.job.Spec.BackoffLimitPerIndex) {
			s.failedIndexes[i] = true
		}
	}
}

// releaseFailed lets failed Pods go, but for the last of an index whose failures are counted, until there is another Pod to
// carry the count on.
func (s *survey) releaseFailed() {
	for _, p := range s.failed {
		if !isTracked(p) {
			continue
		}
		if i := indexOf(p); s.perIndex() && s.isOpen(i) && s.lastOf(i) == p && !s.ending() {
			continue
		}
		s.out.untrack = append(s.out.untrack, p)
	}
}

// ending says whether the Job's end is decided.
func (s *survey) ending() bool {
	return s.job.DeletionTimestamp != nil || s.failJob != "" || isTrue(&s.out.status, batchv1.JobFailureTarget) || isTrue(&s.out.status, batchv1.JobSuccessCriteriaMet)
}

// isOpen says whether the index needs a Pod and has none.
func (s *survey) isOpen(i int) bool {
	return i >= 0 && i < s.completions && !s.completed[i] && !s.failedIndexes[i] &&
		!slices.ContainsFunc(s.active, func(p *corev1.Pod) bool { return indexOf(p) == i })
}

// lastOf is the failed Pod of the index with the highest count of failures; nil if there is none.
func (s *survey) lastOf(i int) *corev1.Pod {
	var last *corev1.Pod
	most := -1
	for _, p := range s.failed {
		if indexOf(p) == i {
			if a, b := failures(p); a+b > most {
				last, most = p, a+b
			}
		}
	}
	return last
}

// begin notes the start, suspension and resumption.
func (s *survey) begin() {
	st := &s.out.status
	suspended := isTrue(st, batchv1.JobSuspended)
	finishing := isTrue(st, batchv1.JobFailureTarget) || isTrue(st, batchv1.JobSuccessCriteriaMet)
	switch suspend := ptr.Deref(s.job.Spec.Suspend, false); {
	case finishing:
	case suspend && !suspended:
		s.set(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended")
		s.tell(corev1.EventTypeNormal, "Suspended", "Job suspended")
		st.StartTime = nil
	case !suspend && suspended:
		s.set(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed")
		s.tell(corev1.EventTypeNormal, "Resumed", "Job resumed")
		st.StartTime = ptr.To(metav1.NewTime(s.now))
	case !suspend && st.StartTime == nil:
		st.StartTime = ptr.To(metav1.NewTime(s.now))
	}
}

// manage deletes surplus Pods or orders missing ones.
func (s *survey) manage() {
	wanted := s.wanted()
	surplus := s.surplus(len(s.active) - wanted)
	if len(surplus) > 0 {
		s.out.remove = surplus[:min(len(surplus), burst)]
		return
	}
	missing := wanted - len(s.active)
	if onlyFailed(s.job) {
		missing -= len(s.terminating)
	}
	missing = min(missing, burst)
	if missing <= 0 {
		return
	}
	if isIndexed(s.job) {
		s.orderIndexes(missing)
		return
	}
	if s.wait(s.notBefore(s.failed)) {
		return
	}
	for range missing {
		s.out.create = append(s.out.create, order{index: -1})
	}
}

// wanted is how many Pods are to run now.
func (s *survey) wanted() int {
	parallelism := int(ptr.Deref(s.job.Spec.Parallelism, 1))
	if s.completions == math.MaxInt {
		// A work queue: after the first success nothing is started.
		if s.successes() > 0 {
			return min(len(s.active), parallelism)
		}
		return parallelism
	}
	return max(0, min(s.completions-s.successes()-len(s.failedIndexes), parallelism))
}

// successes is how many successes there are, those among them that are not numbers yet.
func (s *survey) successes() int {
	if isIndexed(s.job) {
		return len(s.completed)
	}
	return int(s.out.status.Succeeded) + len(s.uncountedSuccess)
}

// surplus are the Pods that must go: of an index that needs none or has one already, and as many more as there are too many.
func (s *survey) surplus(atLeast int) []*corev1.Pod {
	var out, rest []*corev1.Pod
	seen := indexes{}
	ranked := slices.Clone(s.active)
	pods.RankForDeletion(ranked, func(*corev1.Pod) int { return 0 }, s.now)
	slices.Reverse(ranked)
	for _, p := range ranked { // the best first, which stay
		i := indexOf(p)
		if isIndexed(s.job) && (i < 0 || i >= s.completions || seen[i] || s.completed[i] || s.failedIndexes[i]) {
			out = append(out, p)
			continue
		}
		seen[i] = true
		rest = append(rest, p)
	}
	slices.Reverse(rest)
	if isIndexed(s.job) { // the highest indexes go first, as upstream's
		slices.SortStableFunc(rest, func(a, b *corev1.Pod) int { return indexOf(b) - indexOf(a) })
	}
	if more := min(atLeast-len(out), len(rest)); more > 0 {
		out = append(out, rest[:more]...)
	}
	return out
}

// orderIndexes orders Pods for the lowest indexes that need one.
func (s *survey) orderIndexes(missing int) {
	if !s.perIndex() && s.wait(s.notBefore(s.failed)) {
		return
	}
	busy := indexes{}
	for _, p := range s.active {
		busy[indexOf(p)] = true
	}
	if onlyFailed(s.job) {
		for _, p := range s.terminating {
			busy[indexOf(p)] = true
		}
	}
	last := map[int]*corev1.Pod{}
	if s.perIndex() {
		for _, p := range s.failed {
			if i := indexOf(p); last[i] == nil {
				last[i] = s.lastOf(i)
			}
		}
	}
	for i := 0; i < s.completions && missing > 0; i++ {
		if busy[i] || s.completed[i] || s.failedIndexes[i] {
			continue
		}
		o := order{index: i}
		if p := last[i]; p != nil {
			if s.wait(s.notBefore([]*corev1.Pod{p})) {
				continue
			}
			o.failures, o.ignored = failures(p)
			if judge(s.job.Spec.PodFailurePolicy, p).action == batchv1.PodFailurePolicyActionIgnore {
				o.ignored++
			} else {
				o.failures++
			}
		}
		s.out.create = append(s.out.create, o)
		missing--
	}
}

func (s *survey) tell(kind, reason, message string) {
	s.out.events = append(s.out.events, event{kind, reason, message})
}

// wait says whether a time is still to come, and notes it then.
func (s *survey) wait(until time.Time) bool {
	if !until.After(s.now) {
		return false
	}
	if s.out.again.IsZero() || until.Before(s.out.again) {
		s.out.again = until
	}
	return true
}

// describe puts the numbers of Pods into the status.
func (s *survey) describe() {
	st := &s.out.status
	st.Active = int32(len(s.active))
	var ready int32
	for _, p := range s.active {
		if pods.Ready(p) != nil {
			ready++
		}
	}
	st.Ready, st.Terminating = &ready, ptr.To(int32(len(s.terminating)))
}

func (s *survey) set(t batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string) {
	c := batchv1.JobCondition{Type: t, Status: status, Reason: reason, Message: message,
		LastProbeTime: metav1.NewTime(s.now), LastTransitionTime: metav1.NewTime(s.now)}
	st := &s.out.status
	for i := range st.Conditions {
		if st.Conditions[i].Type == t {
			st.Conditions[i] = c
			return
		}
	}
	st.Conditions = append(st.Conditions, c)
}

func find(s *batchv1.JobStatus, t batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range s.Conditions {
		if c := &s.Conditions[i]; c.Type == t && c.Status == corev1.ConditionTrue {
			return c
		}
	}
	return nil
}

func isTrue(s *batchv1.JobStatus, t batchv1.JobConditionType) bool { return find(s, t) != nil }

// IsFinished says whether the Job has completed or failed for good.
func IsFinished(j *batchv1.Job) bool {
	return isTrue(&j.Status, batchv1.JobComplete) || isTrue(&j.Status, batchv1.JobFailed)
}
