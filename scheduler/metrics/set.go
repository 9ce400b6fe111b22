// Package metrics is what a scheduler counts and times, under the names, labels and buckets that kube-prometheus and the dashboards of
// schedulers know. What waits is counted when somebody asks; what has happened, as it happens.
//
// A count costs well below a microsecond, and nothing runs when nothing happens. All methods of a nil Set do nothing, so that a
// scheduler can be run without one.
package metrics

import (
	"strconv"
	"time"

	"k8s.io/component-base/metrics"

	"github.com/peapod/peapod/internal/asked"
	"github.com/peapod/peapod/scheduler/framework"
)

// Results of an attempt to give a Pod a node.
const (
	Scheduled     = "scheduled"
	Unschedulable = "unschedulable"
	Failed        = "error"
)

// Set is everything that one scheduler counts. It is safe for concurrent use.
type Set struct {
	profile string

	attempts  *metrics.CounterVec
	latency   *metrics.HistogramVec
	algorithm *metrics.Histogram
	tries     *metrics.Histogram
	sli       *metrics.HistogramVec
	points    *metrics.HistogramVec
	incoming  *metrics.CounterVec

	preemptions *metrics.Counter
	victims     *metrics.Histogram

	// waiting says what waits now; nobody does while no scheduler runs.
	waiting asked.Source[Waiting]
}

// Registry is where a Set's metrics are to be found.
type Registry struct {
	MustRegister       func(...metrics.Registerable)
	CustomMustRegister func(...metrics.StableCollector)
}

// New makes a Set in which nothing has been counted, of the scheduler that has the name, and registers it.
func New(r Registry, profile string) *Set {
	s := &Set{profile: profile}
	s.attempts = metrics.NewCounterVec(&metrics.CounterOpts{Subsystem: subsystem, Name: "schedule_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Number of attempts to give a Pod a node, by what came of it: unschedulable says that there was none, error that something went wrong."},
		[]string{"result", "profile"})
	s.latency = histograms("scheduling_attempt_duration_seconds", "Seconds that an attempt took, from the queue until the Pod was bound or turned away.",
		metrics.ExponentialBuckets(0.001, 2, 15), metrics.STABLE, "result", "profile")
	s.algorithm = histogram("scheduling_algorithm_duration_seconds", "Seconds that it took to choose a node.", metrics.ExponentialBuckets(0.001, 2, 15), metrics.ALPHA)
	s.tries = histogram("pod_scheduling_attempts", "Number of attempts that Pods took which were given a node.", metrics.ExponentialBuckets(1, 2, 5), metrics.STABLE)
	s.sli = histograms("pod_scheduling_sli_duration_seconds", "Seconds from the time when a Pod could first be tried until it was bound, by the number of attempts.",
		metrics.ExponentialBuckets(0.01, 2, 20), metrics.BETA, "attempts")
	s.points = histograms("framework_extension_point_duration_seconds", "Seconds that all plugins of an extension point took for a Pod.",
		metrics.ExponentialBuckets(0.0001, 2, 12), metrics.STABLE, "extension_point", "status", "profile")
	s.incoming = metrics.NewCounterVec(&metrics.CounterOpts{Subsystem: subsystem, Name: "queue_incoming_pods_total", StabilityLevel: metrics.STABLE,
		Help: "Number of Pods that came into a queue, by queue and event."}, []string{"queue", "event"})
	s.preemptions = metrics.NewCounter(&metrics.CounterOpts{Subsystem: subsystem, Name: "preemption_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Number of times that Pods were looked for which could make room for another one."})
	s.victims = histogram("preemption_victims", "Number of Pods that were chosen to make room for one.", metrics.ExponentialBuckets(1, 2, 7), metrics.STABLE)
	r.MustRegister(s.attempts, s.latency, s.algorithm, s.tries, s.sli, s.points, s.incoming, s.preemptions, s.victims)
	r.CustomMustRegister(newCollector(s))
	return s
}

const subsystem = "scheduler"

func histogram(name, help string, buckets []float64, level metrics.StabilityLevel) *metrics.Histogram {
	return metrics.NewHistogram(&metrics.HistogramOpts{Subsystem: subsystem, Name: name, Help: help, Buckets: buckets, StabilityLevel: level})
}

func histograms(name, help string, buckets []float64, level metrics.StabilityLevel, labels ...string) *metrics.HistogramVec {
	return metrics.NewHistogramVec(&metrics.HistogramOpts{Subsystem: subsystem, Name: name, Help: help, Buckets: buckets, StabilityLevel: level}, labels)
}

// Attempted tells of an attempt that ended.
func (s *Set) Attempted(result string, took time.Duration) {
	if s == nil {
		return
	}
	s.attempts.WithLabelValues(result, s.profile).Inc()
	s.latency.WithLabelValues(result, s.profile).Observe(took.Seconds())
}

// manyTries is from how many attempts on they are not told apart.
const manyTries = 15

// Bound tells that a Pod was bound at so many attempts, and so long after it could first be tried.
func (s *Set) Bound(tries int, after time.Duration) {
	if s == nil {
		return
	}
	s.tries.Observe(float64(tries))
	label := strconv.Itoa(manyTries) + "+"
	if tries < manyTries {
		label = strconv.Itoa(tries)
	}
	s.sli.WithLabelValues(label).Observe(after.Seconds())
}

// Decided tells how long it took to choose a node, or to find that there is none.
func (s *Set) Decided(took time.Duration) {
	if s != nil {
		s.algorithm.Observe(took.Seconds())
	}
}

// Point tells what came of an extension point.
func (s *Set) Point(point framework.Point, verdict framework.Verdict, took time.Duration) {
	if s != nil {
		s.points.WithLabelValues(string(point), verdict.String(), s.profile).Observe(took.Seconds())
	}
}

// Entered tells that a Pod came into a queue because of an event.
func (s *Set) Entered(queue, event string) {
	if s != nil {
		s.incoming.WithLabelValues(queue, event).Inc()
	}
}

// Preempting tells that Pods were looked for that could make room, and how many were chosen; 0 if there were none.
func (s *Set) Preempting(victims int) {
	if s == nil {
		return
	}
	s.preemptions.Inc()
	if victims > 0 {
		s.victims.Observe(float64(victims))
	}
}
