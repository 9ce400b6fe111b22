package stats

import (
	"context"
	"net/http"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// ResourceMetrics serves /metrics/resource: what autoscaling needs.
func (p *Provider) ResourceMetrics() http.Handler {
	return metricsHandler(newResourceCollector(p))
}

// ContainerMetrics serves /metrics/cadvisor: containers and the machine in
// detail, under the names that dashboards know.
func (p *Provider) ContainerMetrics() http.Handler {
	return metricsHandler(newContainerCollector(p))
}

func metricsHandler(c ...metrics.StableCollector) http.Handler {
	registry := metrics.NewKubeRegistry()
	registry.CustomMustRegister(c...)
	return metrics.HandlerFor(registry, metrics.HandlerOpts{ErrorHandling: metrics.ContinueOnError})
}

// scrapeTimeout bounds a measurement for metrics.
const scrapeTimeout = 30 * time.Second

// family is one metric: its description and kind.
type family struct {
	desc *metrics.Desc
	kind metrics.ValueType
}

func counter(name, help string, level metrics.StabilityLevel, labels ...string) family {
	return family{metrics.NewDesc(name, help, labels, nil, level, ""), metrics.CounterValue}
}

func gauge(name, help string, level metrics.StabilityLevel, labels ...string) family {
	return family{metrics.NewDesc(name, help, labels, nil, level, ""), metrics.GaugeValue}
}

// sink collects values.
type sink chan<- metrics.Metric

// put adds a value, with the time of its measurement unless that is zero.
func (s sink) put(f family, at time.Time, v float64, labels ...string) {
	m := metrics.NewLazyConstMetric(f.desc, f.kind, v, labels...)
	if !at.IsZero() {
		m = metrics.NewLazyMetricWithTimestamp(at, m)
	}
	s <- m
}

// bytes adds a value that may be unknown.
func (s sink) bytes(f family, at time.Time, v *uint64, labels ...string) {
	if v != nil {
		s.put(f, at, float64(*v), labels...)
	}
}

// seconds is bytes for nanoseconds that are told in seconds.
func (s sink) seconds(f family, at time.Time, v *uint64, labels ...string) {
	if v != nil {
		s.put(f, at, float64(*v)/float64(time.Second), labels...)
	}
}

// resourceCollector makes the metrics of resources from Usage.
type resourceCollector struct {
	metrics.BaseStableCollector
	p *Provider

	nodeCPU, nodeMemory, nodeSwap                         family
	start, cpu, memory, swap, swapLimit                   family
	podCPU, podMemory, podSwap, scrapeError, resourceFail family
}

func newResourceCollector(p *Provider) *resourceCollector {
	container, pod := []string{"container", "pod", "namespace"}, []string{"pod", "namespace"}
	const stable, alpha = metrics.STABLE, metrics.ALPHA
	return &resourceCollector{
		p:            p,
		nodeCPU:      counter("node_cpu_usage_seconds_total", "Cumulative cpu time consumed by the node in core-seconds", stable),
		nodeMemory:   gauge("node_memory_working_set_bytes", "Current working set of the node in bytes", stable),
		nodeSwap:     gauge("node_swap_usage_bytes", "Current swap usage of the node in bytes. Reported only on non-windows systems", alpha),
		start:        gauge("container_start_time_seconds", "Start time of the container since unix epoch in seconds", stable, container...),
		cpu:          counter("container_cpu_usage_seconds_total", "Cumulative cpu time consumed by the container in core-seconds", stable, container...),
		memory:       gauge("container_memory_working_set_bytes", "Current working set of the container in bytes", stable, container...),
		swap:         gauge("container_swap_usage_bytes", "Current amount of the container swap usage in bytes. Reported only on non-windows systems", alpha, container...),
		swapLimit:    gauge("container_swap_limit_bytes", "Current amount of the container swap limit in bytes. Reported only on non-windows systems", alpha, container...),
		podCPU:       counter("pod_cpu_usage_seconds_total", "Cumulative cpu time consumed by the pod in core-seconds", stable, pod...),
		podMemory:    gauge("pod_memory_working_set_bytes", "Current working set of the pod in bytes", stable, pod...),
		podSwap:      gauge("pod_swap_usage_bytes", "Current amount of the pod swap usage in bytes. Reported only on non-windows systems", alpha, pod...),
		scrapeError:  gauge("scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", alpha),
		resourceFail: gauge("resource_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", stable),
	}
}

// DescribeWithStability implements metrics.StableCollector.
func (c *resourceCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, f := range []family{
		c.nodeCPU, c.nodeMemory, c.nodeSwap, c.start, c.cpu, c.memory, c.swap, c.swapLimit,
		c.podCPU, c.podMemory, c.podSwap, c.scrapeError, c.resourceFail,
	} {
		ch <- f.desc
	}
}

// CollectWithStability implements metrics.StableCollector.
func (c *resourceCollector) CollectWithStability(ch chan<- metrics.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	out, failed := sink(ch), 0.0
	s, err := c.p.Usage(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Measuring for resource metrics failed")
		failed = 1
	} else {
		c.collect(out, s)
	}
	out.put(c.scrapeError, time.Time{}, failed)
	out.put(c.resourceFail, time.Time{}, failed)
}

func (c *resourceCollector) collect(out sink, s *statsapi.Summary) {
	n := &s.Node
	out.seconds(c.nodeCPU, n.CPU.Time.Time, n.CPU.UsageCoreNanoSeconds)
	out.bytes(c.nodeMemory, n.Memory.Time.Time, n.Memory.WorkingSetBytes)
	out.bytes(c.nodeSwap, n.Swap.Time.Time, n.Swap.SwapUsageBytes)
	for i := range s.Pods {
		p := &s.Pods[i]
		pod, ns := p.PodRef.Name, p.PodRef.Namespace
		for j := range p.Containers {
			k := &p.Containers[j]
			if k.StartTime.Unix() > 0 {
				out.put(c.start, time.Time{}, float64(k.StartTime.UnixNano())/float64(time.Second), k.Name, pod, ns)
			}
			if k.CPU != nil {
				out.seconds(c.cpu, k.CPU.Time.Time, k.CPU.UsageCoreNanoSeconds, k.Name, pod, ns)
			}
			if k.Memory != nil {
				out.bytes(c.memory, k.Memory.Time.Time, k.Memory.WorkingSetBytes, k.Name, pod, ns)
			}
			if k.Swap != nil {
				out.bytes(c.swap, k.Swap.Time.Time, k.Swap.SwapUsageBytes, k.Name, pod, ns)
				if k.Swap.SwapAvailableBytes != nil {
					out.bytes(c.swapLimit, k.Swap.Time.Time, sum(k.Swap.SwapAvailableBytes, k.Swap.SwapUsageBytes), k.Name, pod, ns)
				}
			}
		}
		if p.CPU != nil {
			out.seconds(c.podCPU, p.CPU.Time.Time, p.CPU.UsageCoreNanoSeconds, pod, ns)
		}
		if p.Memory != nil {
			out.bytes(c.podMemory, p.Memory.Time.Time, p.Memory.WorkingSetBytes, pod, ns)
		}
		if p.Swap != nil {
			out.bytes(c.podSwap, p.Swap.Time.Time, p.Swap.SwapUsageBytes, pod, ns)
		}
	}
}
