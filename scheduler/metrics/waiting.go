package metrics

import (
	"maps"
	"slices"

	"k8s.io/component-base/metrics"
)

// Waiting is what a scheduler has at some time.
type Waiting struct {
	// Active Pods are to be tried now, BackingOff ones after a time, Unschedulable ones when something happens that may help, and
	// Gated ones not before something else has been done for them.
	Active, BackingOff, Unschedulable, Gated int
	// RejectedBy counts, for each plugin, the Pods that it is a reason for to wait.
	RejectedBy map[string]int
	// Nodes and Pods are what the scheduler counts with; Assumed are those of the Pods that are being bound.
	Nodes, Pods, Assumed int
}

// Follow has now asked whenever somebody reads the metrics, until stop is called. Of two that are followed the later one counts.
func (s *Set) Follow(now func() Waiting) (stop func()) {
	if s == nil {
		return func() {}
	}
	return s.waiting.Follow(now)
}

// collector makes metrics of what waits. It keeps nothing.
type collector struct {
	metrics.BaseStableCollector
	set                           *Set
	pending, unschedulable, cache *metrics.Desc
}

func newCollector(s *Set) *collector {
	gauge := func(name, help string, level metrics.StabilityLevel, labels ...string) *metrics.Desc {
		return metrics.NewDesc(metrics.BuildFQName("", subsystem, name), help, labels, nil, level, "")
	}
	return &collector{
		set: s,
		pending: gauge("pending_pods", "Number of Pods without a node, by queue: those in active are to be tried now, those in backoff after a time, "+
			"those in unschedulable when something happens that may help, those in gated not before their gates or claims allow it.", metrics.STABLE, "queue"),
		unschedulable: gauge("unschedulable_pods", "Number of Pods that fit nowhere, by plugin that is a reason for it. A Pod counts for each of its reasons.",
			metrics.BETA, "plugin", "profile"),
		cache: gauge("cache_size", "Number of nodes, of Pods that have one, and of those of them that are being bound.", metrics.ALPHA, "type"),
	}
}

// DescribeWithStability implements metrics.StableCollector.
func (c *collector) DescribeWithStability(ch chan<- *metrics.Desc) {
	ch <- c.pending
	ch <- c.unschedulable
	ch <- c.cache
}

// CollectWithStability implements metrics.StableCollector. Where no scheduler runs, since another process has the lead, nothing waits here.
func (c *collector) CollectWithStability(ch chan<- metrics.Metric) {
	w, _ := c.set.waiting.Now()
	put := func(desc *metrics.Desc, n int, labels ...string) {
		ch <- metrics.NewLazyConstMetric(desc, metrics.GaugeValue, float64(n), labels...)
	}
	put(c.pending, w.Active, "active")
	put(c.pending, w.BackingOff, "backoff")
	put(c.pending, w.Unschedulable, "unschedulable")
	put(c.pending, w.Gated, "gated")
	for _, plugin := range slices.Sorted(maps.Keys(w.RejectedBy)) {
		put(c.unschedulable, w.RejectedBy[plugin], plugin, c.set.profile)
	}
	put(c.cache, w.Nodes, "nodes")
	put(c.cache, w.Pods, "pods")
	put(c.cache, w.Assumed, "assumed_pods")
}
