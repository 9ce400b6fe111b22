// Package cronjob starts Jobs by the clock, keeps as many finished ones as it is told, and waits for nothing but the next
// time of each schedule.
package cronjob

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	batchlisters "k8s.io/client-go/listers/batch/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/reference"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/job"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "cronjob-controller"

// late is how long after a time of the schedule it is looked at, so that clocks of a little less precision agree.
const late = 100 * time.Millisecond

var kind = batchv1.SchemeGroupVersion.WithKind("CronJob")

type controller struct {
	client   kubernetes.Interface
	recorder record.EventRecorder
	cronJobs batchlisters.CronJobLister
	jobs     batchlisters.JobLister
	now      func() time.Time
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) { return newAt(d, time.Now) }

func newAt(d engine.Deps, now func() time.Time) (engine.Runner, error) {
	cronJobs, jobs := d.Informers.Batch().V1().CronJobs(), d.Informers.Batch().V1().Jobs()
	c := &controller{client: d.Client, recorder: d.Recorder, cronJobs: cronJobs.Lister(), jobs: jobs.Lister(), now: now}
	loop := &engine.Loop{Name: Name, Workers: 5, Sync: c.sync}
	mine, err := cronJobs.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: engine.Object(loop),
		UpdateFunc: func(old, obj any) {
			was, ok := old.(*batchv1.CronJob)
			cj, isCronJob := obj.(*batchv1.CronJob)
			if !ok || !isCronJob {
				return
			}
			if next := c.firstOf(was, cj); next > 0 {
				loop.AddAfter(cache.MetaObjectToName(cj), next)
				return
			}
			loop.Add(cache.MetaObjectToName(cj))
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch cron jobs: %w", err)
	}
	theirs, err := jobs.Informer().AddEventHandler(engine.Owners{Kind: kind, Add: loop.Add})
	if err != nil {
		return nil, fmt.Errorf("watch jobs: %w", err)
	}
	loop.Synced = []cache.DoneChecker{mine.HasSyncedChecker(), theirs.HasSyncedChecker()}
	return loop, nil
}

// firstOf is how long a CronJob whose schedule has changed is let be: until the first time of the new one, lest it start at once
// for a time that had passed when the schedule was written. Zero is for all other changes.
func (c *controller) firstOf(was, cj *batchv1.CronJob) time.Duration {
	if was.Spec.Schedule == cj.Spec.Schedule && ptr.Equal(was.Spec.TimeZone, cj.Spec.TimeZone) {
		return 0
	}
	schedule, err := parse(&cj.Spec)
	if err != nil {
		return 0 // a sync tells of it
	}
	now := c.now()
	next := schedule.Next(now)
	if next.IsZero() {
		return 0
	}
	return next.Sub(now) + late
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	shown, err := c.cronJobs.CronJobs(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read cron job: %w", err)
	}
	cj := shown.DeepCopy()
	list, err := c.owned(cj)
	if err != nil {
		return err
	}
	if behind, err := c.behind(ctx, cj, list); err != nil || behind {
		return err
	}
	errs := []error{c.forget(ctx, cj, list), c.follow(ctx, cj, list)}
	next, startErr := c.start(ctx, cj)
	errs = append(errs, startErr)
	if !equality.Semantic.DeepEqual(shown.Status, cj.Status) {
		_, err := c.client.BatchV1().CronJobs(cj.Namespace).UpdateStatus(ctx, cj, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
			errs = append(errs, fmt.Errorf("write status: %w", err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if !next.IsZero() {
		return &engine.Retry{After: next.Sub(c.now()) + late, Why: "the next scheduled time"}
	}
	return nil
}

// owned are the Jobs that the CronJob controls.
func (c *controller) owned(cj *batchv1.CronJob) ([]*batchv1.Job, error) {
	list, err := c.jobs.Jobs(cj.Namespace).List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list jobs: %w", err)
	}
	return slices.DeleteFunc(list, func(j *batchv1.Job) bool { return !metav1.IsControlledBy(j, cj) }), nil
}

// forget deletes the oldest finished Jobs beyond those that are to be kept.
func (c *controller) forget(ctx context.Context, cj *batchv1.CronJob, list []*batchv1.Job) error {
	var good, bad []*batchv1.Job
	for _, j := range list {
		switch {
		case !job.IsFinished(j) || j.DeletionTimestamp != nil:
		case ended(j) == batchv1.JobComplete:
			good = append(good, j)
		default:
			bad = append(bad, j)
		}
	}
	var errs []error
	for _, h := range []struct {
		jobs  []*batchv1.Job
		limit *int32
	}{{good, cj.Spec.SuccessfulJobsHistoryLimit}, {bad, cj.Spec.FailedJobsHistoryLimit}} {
		if h.limit == nil || len(h.jobs) <= int(*h.limit) {
			continue
		}
		slices.SortFunc(h.jobs, byStart)
		for _, j := range h.jobs[:len(h.jobs)-int(*h.limit)] {
			errs = append(errs, c.remove(ctx, cj, j.Name))
		}
	}
	return errors.Join(errs...)
}

// byStart orders Jobs by when they started, those that never did last.
func byStart(a, b *batchv1.Job) int {
	switch x, y := a.Status.StartTime, b.Status.StartTime; {
	case x == nil && y != nil:
		return 1
	case x != nil && y == nil:
		return -1
	case x != nil && !x.Equal(y):
		return x.Compare(y.Time)
	}
	return cmp.Compare(a.Name, b.Name)
}

// remove deletes a Job with its Pods.
func (c *controller) remove(ctx context.Context, cj *batchv1.CronJob, name string) error {
	policy := metav1.DeletePropagationBackground
	err := c.client.BatchV1().Jobs(cj.Namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy})
	if err != nil && !apierrors.IsNotFound(err) {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "FailedDelete", "Deleted job: %v", err)
		return fmt.Errorf("delete job %s: %w", name, err)
	}
	c.recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulDelete", "Deleted job %v", name)
	return nil
}

// ended is how a Job ended.
func ended(j *batchv1.Job) batchv1.JobConditionType {
	for _, c := range j.Status.Conditions {
		if (c.Type == batchv1.JobComplete || c.Type == batchv1.JobFailed) && c.Status == corev1.ConditionTrue {
			return c.Type
		}
	}
	return ""
}

// behind says whether Jobs are seen of which the CronJob's status should tell, and does in the API, but not yet here. The event
// of that queues it.
func (c *controller) behind(ctx context.Context, cj *batchv1.CronJob, list []*batchv1.Job) (bool, error) {
	unknown := func(j *batchv1.Job) bool {
		return !job.IsFinished(j) && !slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
	}
	if !slices.ContainsFunc(list, unknown) {
		return false, nil
	}
	now, err := c.client.BatchV1().CronJobs(cj.Namespace).Get(ctx, cj.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return false, fmt.Errorf("read cron job: %w", err)
	}
	return err != nil || now.ResourceVersion != cj.ResourceVersion, nil
}

// follow brings the list of active Jobs up to date.
func (c *controller) follow(ctx context.Context, cj *batchv1.CronJob, list []*batchv1.Job) error {
	known := map[string]bool{}
	for _, j := range list {
		known[string(j.UID)] = true
		at := slices.IndexFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.UID == j.UID })
		switch {
		case at < 0 && !job.IsFinished(j):
			c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnexpectedJob", "Saw a job that the controller did not create or forgot: %s", j.Name)
		case at >= 0 && job.IsFinished(j):
			cj.Status.Active = slices.Delete(slices.Clone(cj.Status.Active), at, at+1)
			c.recorder.Eventf(cj, corev1.EventTypeNormal, "SawCompletedJob", "Saw completed job: %s, condition: %v", j.Name, ended(j))
		}
		if t := j.Status.CompletionTime; ended(j) == batchv1.JobComplete && t != nil {
			if last := cj.Status.LastSuccessfulTime; last == nil || t.After(last.Time) {
				cj.Status.LastSuccessfulTime = t
			}
		}
	}
	for _, ref := range slices.Clone(cj.Status.Active) {
		if known[string(ref.UID)] {
			continue
		}
		// The informer may not show it yet.
		j, err := c.client.BatchV1().Jobs(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("read job %s: %w", ref.Name, err)
		}
		if err != nil || j.UID != ref.UID {
			c.recorder.Eventf(cj, corev1.EventTypeNormal, "MissingJob", "Active job went missing: %v", ref.Name)
			cj.Status.Active = slices.DeleteFunc(slices.Clone(cj.Status.Active), func(r corev1.ObjectReference) bool { return r.UID == ref.UID })
		}
	}
	return nil
}

// start makes the Job that is due, if any, and returns the next time of the schedule.
func (c *controller) start(ctx context.Context, cj *batchv1.CronJob) (next time.Time, err error) {
	if cj.DeletionTimestamp != nil || suspended(cj) {
		return time.Time{}, nil
	}
	if cj.Spec.TimeZone != nil {
		if _, err := time.LoadLocation(*cj.Spec.TimeZone); err != nil {
			c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnknownTimeZone", "invalid timeZone: %q: %s", *cj.Spec.TimeZone, err)
			return time.Time{}, nil
		}
	}
	if strings.Contains(cj.Spec.Schedule, "TZ") { // from before that was refused
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnsupportedSchedule",
			"CRON_TZ or TZ used in schedule %q is not officially supported, see https://kubernetes.io/docs/concepts/workloads/controllers/cron-jobs/ for more details", cj.Spec.Schedule)
	}
	schedule, err := parse(&cj.Spec)
	if err != nil {
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "UnparseableSchedule", "unparseable schedule: %q : %s", cj.Spec.Schedule, err)
		return time.Time{}, nil // a change of it queues the object
	}
	now := c.now()
	if next = schedule.Next(now); next.IsZero() { // such as the 31st of February
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "InvalidSchedule", "invalid schedule: %s : %s", cj.Spec.Schedule,
			"time difference between two schedules is less than 1 second")
		return next, nil
	}
	at, tooMany := due(cj, schedule, now)
	if tooMany {
		c.recorder.Event(cj, corev1.EventTypeWarning, "TooManyMissedTimes",
			"too many missed start times. Set or decrease .spec.startingDeadlineSeconds or check clock skew")
	}
	if at.IsZero() || ptr.Deref(cj.Status.LastScheduleTime, metav1.Time{}).Time.Equal(at) {
		return next, nil
	}
	name := fmt.Sprintf("%s-%d", cj.Name, at.Unix()/60)
	if slices.ContainsFunc(cj.Status.Active, func(r corev1.ObjectReference) bool { return r.Name == name }) {
		return next, nil
	}
	switch {
	case cj.Spec.ConcurrencyPolicy == batchv1.ForbidConcurrent && len(cj.Status.Active) > 0:
		c.recorder.Event(cj, corev1.EventTypeNormal, "JobAlreadyActive",
			"Not starting job because prior execution is running and concurrency policy is Forbid")
		return next, nil
	case cj.Spec.ConcurrencyPolicy == batchv1.ReplaceConcurrent:
		for _, ref := range cj.Status.Active {
			if err := c.remove(ctx, cj, ref.Name); err != nil {
				return next, err
			}
		}
		cj.Status.Active = nil
	}
	return next, c.create(ctx, cj, name, at)
}

// create makes the Job of a time. One of its name that is the CronJob's was made before a stop, and is taken for it.
func (c *controller) create(ctx context.Context, cj *batchv1.CronJob, name string, at time.Time) error {
	annotations := maps.Clone(cj.Spec.JobTemplate.Annotations)
	if annotations == nil {
		annotations = map[string]string{}
	}
	zone, err := time.LoadLocation(ptr.Deref(cj.Spec.TimeZone, "")) // UTC, if there is none
	if err != nil {
		return fmt.Errorf("read time zone: %w", err)
	}
	at = at.In(zone)
	annotations[batchv1.CronJobScheduledTimestampAnnotation] = at.Format(time.RFC3339)
	j := &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Namespace: cj.Namespace, Labels: maps.Clone(cj.Spec.JobTemplate.Labels), Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(cj, kind)},
		},
		Spec: *cj.Spec.JobTemplate.Spec.DeepCopy(),
	}
	made, err := c.client.BatchV1().Jobs(cj.Namespace).Create(ctx, j, metav1.CreateOptions{})
	switch {
	case apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause):
		return nil
	case apierrors.IsAlreadyExists(err):
		if made, err = c.client.BatchV1().Jobs(cj.Namespace).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return fmt.Errorf("read job %s: %w", name, err)
		}
		if !metav1.IsControlledBy(made, cj) {
			return fmt.Errorf("create job: %s is another's", name)
		}
	case err != nil:
		c.recorder.Eventf(cj, corev1.EventTypeWarning, "FailedCreate", "Error creating job: %v", err)
		return fmt.Errorf("create job %s: %w", name, err)
	default:
		c.recorder.Eventf(cj, corev1.EventTypeNormal, "SuccessfulCreate", "Created job %v", name)
	}
	if !job.IsFinished(made) {
		ref, err := reference.GetReference(scheme.Scheme, made)
		if err != nil {
			return fmt.Errorf("refer to job %s: %w", name, err)
		}
		cj.Status.Active = append(slices.Clone(cj.Status.Active), *ref)
	}
	cj.Status.LastScheduleTime = ptr.To(metav1.NewTime(at))
	return nil
}
