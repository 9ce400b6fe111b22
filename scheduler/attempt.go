package scheduler

import (
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/metrics"
)

// attempt is one try to give a Pod a node.
type attempt struct {
	pod *framework.Pod
	// began is when the Pod was taken from the queue, since when it could first be taken; tries counts this one.
	began, since time.Time
	tries        int
}

// begin starts an attempt for a Pod that was popped. The caller holds mu.
func (s *Scheduler) begin(pod *framework.Pod, now time.Time) attempt {
	a := attempt{pod: pod, began: now}
	a.tries, a.since = s.queue.Tries(pod.UID)
	return a
}

// decided counts what it took to choose a node.
func (s *Scheduler) decided(a attempt, d cycle.Decision) {
	if s.cfg.Metrics == nil {
		return
	}
	s.cfg.Metrics.Decided(s.cfg.Clock.Since(a.began))
	for _, lap := range d.Laps {
		if lap.Point != "" {
			s.cfg.Metrics.Point(lap.Point, lap.Verdict, lap.Took)
		}
	}
}

// attempted counts an attempt that ended.
func (s *Scheduler) attempted(a attempt, result string) {
	now := s.cfg.Clock.Now()
	s.cfg.Metrics.Attempted(result, now.Sub(a.began))
	if result == metrics.Scheduled {
		s.cfg.Metrics.Bound(a.tries, now.Sub(a.since))
	}
}

// timed counts what came of a point that began then.
func (s *Scheduler) timed(point framework.Point, began time.Time, verdict framework.Verdict) {
	s.cfg.Metrics.Point(point, verdict, s.cfg.Clock.Since(began))
}

// gate remembers whether a Pod without a node waits for its scheduling gates. The caller holds mu.
func (s *Scheduler) gate(pod *corev1.Pod) {
	_, was := s.gated[pod.UID]
	switch gated := pod.Spec.SchedulerName == s.cfg.Name && len(pod.Spec.SchedulingGates) > 0; {
	case gated && !was:
		s.gated[pod.UID] = struct{}{}
		s.cfg.Metrics.Entered("unschedulable", framework.PodAdd)
	case !gated && was:
		delete(s.gated, pod.UID)
	}
}

// waiting is what metrics tell of this moment.
func (s *Scheduler) waiting() metrics.Waiting {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.queue.Count()
	w := metrics.Waiting{
		Active: c.Active, BackingOff: c.BackingOff, Unschedulable: c.Unschedulable, Gated: c.Held + len(s.gated), RejectedBy: c.RejectedBy,
		Nodes: len(s.cluster.Known().Nodes), Pods: s.cluster.Pods(), Assumed: len(s.assumed),
	}
	if len(s.gated) > 0 {
		w.RejectedBy["SchedulingGates"] = len(s.gated)
	}
	return w
}
