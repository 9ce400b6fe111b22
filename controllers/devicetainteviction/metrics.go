package devicetainteviction

import (
	"sync"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// subsystem is upstream's.
const subsystem = "device_taint_eviction_controller"

// evictions are the metrics of Pods that were deleted, which exist from the first such Pod.
var evictions = sync.OnceValue(func() (m struct {
	total    *metrics.Counter
	duration *metrics.Histogram
}) {
	m.total = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem: subsystem, Name: "pod_deletions_total", StabilityLevel: metrics.ALPHA,
		Help: "Number of Pods that were deleted because of taints of their devices.",
	})
	m.duration = metrics.NewHistogram(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "pod_deletion_duration_seconds", StabilityLevel: metrics.ALPHA,
		Help:    "Seconds between the time when a Pod had to go because of taints of its devices and its deletion.",
		Buckets: []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 30, 60, 120, 180, 240},
	})
	legacyregistry.MustRegister(m.total, m.duration)
	return m
})

// observe counts a Pod that was deleted so long after it had to go.
func observe(late time.Duration) {
	evictions().total.Inc()
	evictions().duration.Observe(late.Seconds())
}
