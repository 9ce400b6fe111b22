package dra

import (
	"strconv"
	"sync"
	"time"

	"google.golang.org/grpc/status"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// gauges are the metrics of claims on the node, named as upstream's. They exist from the first claim.
type gauges struct {
	operations, calls *metrics.HistogramVec
	inUse             *metrics.GaugeVec
}

// anyDriver counts claims, whichever and how many drivers they have devices of.
const anyDriver = "<any>"

var measured = sync.OnceValue(func() *gauges {
	const subsystem = "dra"
	buckets := metrics.ExponentialBucketsRange(.1, 40, 15)
	g := &gauges{
		operations: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "operations_duration_seconds", StabilityLevel: metrics.ALPHA, Buckets: buckets,
			Help: "Seconds that all claims of a Pod took to be prepared when it starts, or to be given back when it ends, by operation and whether it failed",
		}, []string{"operation_name", "is_error"}),
		calls: metrics.NewHistogramVec(&metrics.HistogramOpts{
			Subsystem: subsystem, Name: "grpc_operations_duration_seconds", StabilityLevel: metrics.ALPHA, Buckets: buckets,
			Help: "Seconds that calls to drivers of devices took",
		}, []string{"driver_name", "method_name", "grpc_status_code"}),
		inUse: metrics.NewGaugeVec(&metrics.GaugeOpts{
			Subsystem: subsystem, Name: "resource_claims_in_use", StabilityLevel: metrics.ALPHA,
			Help: "Number of ResourceClaims that Pods of the node have, by driver, and for driver <any> of all: a claim may have devices of several",
		}, []string{"driver_name"}),
	}
	legacyregistry.MustRegister(g.operations, g.calls, g.inUse)
	return g
})

// operated counts what was done for a Pod.
func operated(what string, begin time.Time, err error) {
	measured().operations.WithLabelValues(what, strconv.FormatBool(err != nil)).Observe(time.Since(begin).Seconds())
}

// called counts a call to a driver.
func called(driver, method string, begin time.Time, err error) {
	measured().calls.WithLabelValues(driver, method, status.Code(err).String()).Observe(time.Since(begin).Seconds())
}

// inUse takes in that what the node has of a claim was one thing and is another; nil is nothing.
func inUse(was, is *record) {
	count := func(r *record, by float64) {
		if r == nil {
			return
		}
		measured().inUse.WithLabelValues(anyDriver).Add(by)
		for name := range r.Drivers {
			measured().inUse.WithLabelValues(name).Add(by)
		}
	}
	count(was, -1)
	count(is, 1)
}
