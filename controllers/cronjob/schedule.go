package cronjob

import (
	"fmt"
	"strings"
	"time"
	_ "time/tzdata" // time zones on machines that have none of their own

	"github.com/robfig/cron/v3"
	batchv1 "k8s.io/api/batch/v1"
	"k8s.io/utils/ptr"
)

// manyMissed is how many missed times are worth a warning, since they may come from a clock that is wrong.
const manyMissed = 100

// windows are how far back the last time is looked for, one after the other: so a schedule of each minute that was missed
// for years costs as little as any.
var windows = []time.Duration{2 * time.Minute, time.Hour, 24 * time.Hour, 7 * 24 * time.Hour, 32 * 24 * time.Hour, 366 * 24 * time.Hour, 10 * 366 * 24 * time.Hour}

// parse reads the schedule, in its time zone.
func parse(spec *batchv1.CronJobSpec) (cron.Schedule, error) {
	text := spec.Schedule
	if spec.TimeZone != nil && !strings.Contains(text, "TZ") {
		text = fmt.Sprintf("TZ=%s %s", *spec.TimeZone, text)
	}
	return cron.ParseStandard(text)
}

// due returns the last time of the schedule that is not after now and was not served yet, the zero time if there is none, and
// whether too many were missed before it.
func due(cj *batchv1.CronJob, schedule cron.Schedule, now time.Time) (last time.Time, tooMany bool) {
	since := cj.CreationTimestamp.Time
	if cj.Status.LastScheduleTime != nil {
		since = cj.Status.LastScheduleTime.Time
	}
	if d := cj.Spec.StartingDeadlineSeconds; d != nil {
		if limit := now.Add(-time.Duration(*d) * time.Second); limit.After(since) {
			since = limit
		}
	}
	if since.After(now) {
		return time.Time{}, false
	}
	missed := 0
	for t := schedule.Next(since); !t.IsZero() && !t.After(now) && missed <= manyMissed; t = schedule.Next(t) {
		last = t
		missed++
	}
	if missed <= manyMissed {
		return last, false
	}
	for _, w := range windows {
		from := now.Add(-w)
		if from.Before(since) {
			from = since
		}
		found := time.Time{}
		for t := schedule.Next(from); !t.IsZero() && !t.After(now); t = schedule.Next(t) {
			found = t
		}
		if !found.IsZero() {
			return found, true
		}
	}
	return last, true
}

// suspended says whether nothing is to be started.
func suspended(cj *batchv1.CronJob) bool { return ptr.Deref(cj.Spec.Suspend, false) }
