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

	mu   sync.Mutex
	used map[string]int // what inUse tells, so that drivers are dropped from it
}

// anyDriver counts claims, whichever and how many drivers they have devices of.
const anyDriver = "<any>"

var measured = sync.OnceValue(func() *gauges {
	const subsystem = "dra"
	buckets := metrics.ExponentialBucketsRange(.1, 40, 15)
	g := &gauges{
		used: map[string]int{},
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
	g := measured()
	g.mu.Lock()
	defer g.mu.Unlock()
	g.count(was, -1)
	g.count(is, 1)
	g.inUse.WithLabelValues(anyDriver).Set(float64(g.used[anyDriver]))
	for _, r := range []*record{was, is} {
		if r == nil {
			continue
		}
		for name := range r.Drivers {
			if n := g.used[name]; n > 0 {
				g.inUse.WithLabelValues(name).Set(float64(n))
				continue
			}
			g.inUse.Delete(map[string]string{"driver_name": name})
			delete(g.used, name)
		}
	}
}

// count adds by for each of the record's drivers. The caller holds mu.
func (g *gauges) count(r *record, by int) {
	if r == nil {
		return
	}
	g.used[anyDriver] += by
	for name := range r.Drivers {
		g.used[name] += by
	}
}
