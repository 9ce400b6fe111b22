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
	clock := func() time.Time { return time.Now().Add(time.Minute) }
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
	if !strings.HasPrefix(j.Name, "tick-") || j.Annotations[batchv1.CronJobScheduledTimestampAnnotation] == "" || metav1.GetControllerOf(&j).Kind != "CronJob" {
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
