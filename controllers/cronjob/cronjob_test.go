package cronjob

import (
	"slices"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/controllers/job"
	"github.com/peapod/peapod/controllers/ttlafterfinished"
	"github.com/peapod/peapod/test/controltest"
)

func TestDue(t *testing.T) {
	at := func(s string) time.Time {
		v, err := time.Parse(time.RFC3339, s)
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
	for _, c := range []struct {
		what, schedule, zone, since, now string
		deadline                         *int64
		want                             string
		tooMany                          bool
	}{
		{"not yet", "0 * * * *", "", "2026-01-01T10:05:00Z", "2026-01-01T10:59:59Z", nil, "", false},
		{"now", "0 * * * *", "", "2026-01-01T10:05:00Z", "2026-01-01T11:00:00Z", nil, "2026-01-01T11:00:00Z", false},
		{"the last of several", "0 * * * *", "", "2026-01-01T10:05:00Z", "2026-01-01T14:30:00Z", nil, "2026-01-01T14:00:00Z", false},
		{"zone", "0 9 * * *", "Asia/Seoul", "2026-01-01T00:00:01Z", "2026-01-02T00:00:10Z", nil, "2026-01-02T00:00:00Z", false},
		{"missed beyond the deadline", "0 * * * *", "", "2026-01-01T10:05:00Z", "2026-01-01T11:10:00Z", ptr.To[int64](60), "", false},
		{"years", "* * * * *", "", "2020-01-01T10:05:00Z", "2026-01-01T11:10:30Z", nil, "2026-01-01T11:10:00Z", true},
		{"years, rarely", "0 0 1 * *", "", "2000-01-01T10:05:00Z", "2026-01-20T11:10:30Z", nil, "2026-01-01T00:00:00Z", true},
	} {
		cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(at(c.since))},
			Spec: batchv1.CronJobSpec{Schedule: c.schedule, StartingDeadlineSeconds: c.deadline}}
		if c.zone != "" {
			cj.Spec.TimeZone = &c.zone
		}
		s, err := parse(&cj.Spec)
		if err != nil {
			t.Fatal(err)
		}
		got, tooMany := due(cj, s, at(c.now))
		var want time.Time
		if c.want != "" {
			want = at(c.want)
		}
		if !got.Equal(want) || tooMany != c.tooMany {
			t.Errorf("%s: %v, %v; want %v, %v", c.what, got, tooMany, want, c.tooMany)
		}
	}
}

// The clock stands at a minute to come, so that a schedule of each minute is due at once.
func TestStartsAndForgets(t *testing.T) {
	clock := func() time.Time { return time.Now().Add(time.Minute).In(time.FixedZone("here", 3600)) }
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) { return newAt(d, clock) }, job.New, ttlafterfinished.New)
	w.Watch(t, w.Informers.Batch().V1().Jobs().Informer())
	w.Watch(t, w.Informers.Batch().V1().CronJobs().Informer())
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	cj := &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick", Namespace: controltest.Namespace},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", SuccessfulJobsHistoryLimit: ptr.To[int32](0), ConcurrencyPolicy: batchv1.ForbidConcurrent,
			JobTemplate: batchv1.JobTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"from": "tick"}},
				Spec:       batchv1.JobSpec{Template: controltest.Template(nil)}},
		},
	}
	cj.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	jobs := w.Client.BatchV1().Jobs(controltest.Namespace)
	cronJobs := w.Client.BatchV1().CronJobs(controltest.Namespace)
	if _, err := cronJobs.Create(t.Context(), cj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	list := func() []batchv1.Job {
		l, err := jobs.List(t.Context(), metav1.ListOptions{LabelSelector: "from=tick"})
		if err != nil {
			t.Fatal(err)
		}
		return l.Items
	}
	w.Await(t, "a Job", func() bool { return len(list()) == 1 })
	j := list()[0]
	if !strings.HasPrefix(j.Name, "tick-") || !strings.HasSuffix(j.Annotations[batchv1.CronJobScheduledTimestampAnnotation], "Z") || metav1.GetControllerOf(&j).Kind != "CronJob" {
		t.Errorf("Job %+v", j.ObjectMeta)
	}
	w.Await(t, "it to be active", func() bool {
		now, err := cronJobs.Get(t.Context(), "tick", metav1.GetOptions{})
		return err == nil && len(now.Status.Active) == 1 && now.Status.Active[0].Name == j.Name && now.Status.LastScheduleTime != nil
	})
	w.Await(t, "its Pod", func() bool { return len(w.Pods(t, batchv1.JobNameLabel+"="+j.Name)) == 1 })
	w.SetPhase(t, &w.Pods(t, batchv1.JobNameLabel+"="+j.Name)[0], corev1.PodSucceeded)
	w.Await(t, "it to be forgotten", func() bool {
		now, err := cronJobs.Get(t.Context(), "tick", metav1.GetOptions{})
		gone := !slices.ContainsFunc(list(), func(x batchv1.Job) bool { return x.UID == j.UID && x.DeletionTimestamp == nil })
		return err == nil && gone && len(now.Status.Active) == 0 && now.Status.LastSuccessfulTime != nil
	})
}

// TestFirstOf: a new schedule waits for its first time; other changes are looked at now.
func TestFirstOf(t *testing.T) {
	c := &controller{now: func() time.Time { return time.Date(2026, 1, 1, 10, 20, 0, 0, time.UTC) }}
	of := func(schedule, zone string) *batchv1.CronJob {
		return &batchv1.CronJob{Spec: batchv1.CronJobSpec{Schedule: schedule, TimeZone: &zone}}
	}
	was := of("0 0 1 1 *", "Etc/UTC")
	for _, test := range []struct {
		schedule, zone string
		want           time.Duration
	}{
		{"0 0 1 1 *", "Etc/UTC", 0},
		{"0 * * * *", "Etc/UTC", 40*time.Minute + late},
		{"0 20 * * *", "Asia/Seoul", 40*time.Minute + late},
		{"never", "Etc/UTC", 0},
		{"0 0 31 2 *", "Etc/UTC", 0},
	} {
		if got := c.firstOf(was, of(test.schedule, test.zone)); got != test.want {
			t.Errorf("%s %s: %s, want %s", test.schedule, test.zone, got, test.want)
		}
	}
}

// TestHistoryOrder: what started first is forgotten first, what never started last.
func TestHistoryOrder(t *testing.T) {
	of := func(name string, started int64) *batchv1.Job {
		j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if started > 0 {
			j.Status.StartTime = ptr.To(metav1.Unix(started, 0))
		}
		return j
	}
	list := []*batchv1.Job{of("never-b", 0), of("two", 2), of("never-a", 0), of("one-b", 1), of("one-a", 1)}
	slices.SortFunc(list, byStart)
	names := ""
	for _, j := range list {
		names += j.Name + " "
	}
	if names != "one-a one-b two never-a never-b " {
		t.Error(names)
	}
}

// TestNoSuchDay: a schedule that never comes is told of.
func TestNoSuchDay(t *testing.T) {
	w := controltest.Start(t, New)
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "leap", Namespace: controltest.Namespace},
		Spec: batchv1.CronJobSpec{Schedule: "0 0 31 2 *", JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{Template: controltest.Template(nil)}}}}
	cj.Spec.JobTemplate.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	if _, err := w.Client.BatchV1().CronJobs(controltest.Namespace).Create(t.Context(), cj, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Event(t, "leap", "InvalidSchedule", "invalid schedule: 0 0 31 2 * : time difference between two schedules is less than 1 second")
}

func TestTimeToLive(t *testing.T) {
	w := controltest.Start(t, job.New, ttlafterfinished.New)
	w.Watch(t, w.Informers.Batch().V1().Jobs().Informer())
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "brief", Namespace: controltest.Namespace},
		Spec: batchv1.JobSpec{Template: controltest.Template(nil), TTLSecondsAfterFinished: ptr.To[int32](1)}}
	j.Spec.Template.Spec.RestartPolicy = corev1.RestartPolicyNever
	jobs := w.Client.BatchV1().Jobs(controltest.Namespace)
	if _, err := jobs.Create(t.Context(), j, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "its Pod", func() bool { return len(w.Pods(t, batchv1.JobNameLabel+"=brief")) == 1 })
	w.SetPhase(t, &w.Pods(t, batchv1.JobNameLabel+"=brief")[0], corev1.PodSucceeded)
	w.Await(t, "its deletion", func() bool {
		now, err := jobs.Get(t.Context(), "brief", metav1.GetOptions{})
		return err != nil || now.DeletionTimestamp != nil
	})
}
