package queue_test

import (
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/queue"
)

// rule is a plugin whose Pods every event helps.
type rule string

func (r rule) Name() string                               { return string(r) }
func (r rule) Helps(*framework.Pod, framework.Event) bool { return true }

// Each Pod is counted where it waits, and what brought it there is told once.
func TestCount(t *testing.T) {
	q := queue.New([]framework.Plugin{rule("A"), rule("B")})
	entered := map[string]int{}
	q.Entered = func(into, event string) { entered[into+" "+event]++ }
	now := time.Unix(1000, 0)
	for _, name := range []string{"tried", "held", "broken", "turned away"} {
		q.Put(framework.NewPod(&corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}), framework.PodAdd, now)
	}
	want := func(active, backingOff, unschedulable, held int, rejectedBy map[string]int) {
		t.Helper()
		c := q.Count()
		if got, want := fmt.Sprint(c.Active, c.BackingOff, c.Unschedulable, c.Held), fmt.Sprint(active, backingOff, unschedulable, held); got != want {
			t.Errorf("active, backing off, unschedulable, held: %s, want %s", got, want)
		}
		if !maps.Equal(c.RejectedBy, rejectedBy) {
			t.Errorf("rejected by %v, want %v", c.RejectedBy, rejectedBy)
		}
	}
	want(4, 0, 0, 0, nil)
	if p := q.Pop(now); p.Name != "tried" {
		t.Fatalf("popped %s", p.Name)
	}
	if tries, since := q.Tries("tried"); tries != 1 || !since.Equal(now) {
		t.Errorf("tried %d times since %s, want 1 since %s", tries, since, now)
	}
	q.Hold(q.Pop(now).UID, "A")
	q.Failed(q.Pop(now).UID, nil, now)
	q.Failed(q.Pop(now).UID, []string{"A", "B"}, now)
	want(0, 1, 1, 1, map[string]int{"A": 2, "B": 1})
	q.Happened(framework.Event{NewNode: &corev1.Node{}}, now)
	want(2, 1, 0, 0, nil)
	q.Failed(q.Pop(now).UID, []string{"B"}, now) // the one that was held is so no longer
	want(1, 1, 1, 0, map[string]int{"B": 1})
	if q.Pop(now.Add(time.Minute)); q.Count().BackingOff != 0 {
		t.Error("a back-off does not end")
	}
	got := []string{}
	for _, what := range slices.Sorted(maps.Keys(entered)) {
		got = append(got, fmt.Sprint(entered[what], " ", what))
	}
	if want := []string{"1 active BackoffComplete", "2 active NodeAdd", "4 active UnschedulablePodAdd", "1 backoff ScheduleAttemptFailure",
		"2 unschedulable ScheduleAttemptFailure", "1 unschedulable UnschedulablePodAdd"}; !slices.Equal(got, want) {
		t.Errorf("entered %q\nwant %q", got, want)
	}
}
