package cri

import (
	"context"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// metric is one that the runtime tells, under the name that dashboards know from cAdvisor.
type metric struct {
	name, help string
	kind       runtimeapi.MetricType
	// Exactly one of these reads it; nil as the result means that it is unknown.
	usage   func(*usage) *runtimeapi.UInt64Value
	network func(*runtimeapi.NetworkInterfaceUsage) *runtimeapi.UInt64Value
}

// usage is what a Pod or a container uses. Fields may be nil.
type usage struct {
	cpu    *runtimeapi.CpuUsage
	memory *runtimeapi.MemoryUsage
	swap   *runtimeapi.SwapUsage
	layer  *runtimeapi.FilesystemUsage
	start  time.Time
}

const (
	metricCounter = runtimeapi.MetricType_COUNTER
	metricGauge   = runtimeapi.MetricType_GAUGE
	// metricLayer is measured now and then only.
	metricLayer = "container_fs_usage_bytes"
)

// metricsTable lists all metrics. CRI tells whole numbers only, so that seconds are whole too.
var metricsTable = []metric{
	{name: "container_cpu_usage_seconds_total", help: "Cumulative cpu time consumed in seconds.", kind: metricCounter,
		usage: func(u *usage) *runtimeapi.UInt64Value {
			if u.cpu.GetUsageCoreNanoSeconds() == nil {
				return nil
			}
			return value(u.cpu.UsageCoreNanoSeconds.Value / uint64(time.Second))
		}},
	{name: "container_memory_usage_bytes", help: "Current memory usage in bytes, including all memory regardless of when it was accessed.", kind: metricGauge,
		usage: func(u *usage) *runtimeapi.UInt64Value { return u.memory.GetUsageBytes() }},
	{name: "container_memory_working_set_bytes", help: "Current working set in bytes.", kind: metricGauge,
		usage: func(u *usage) *runtimeapi.UInt64Value { return u.memory.GetWorkingSetBytes() }},
	{name: "container_memory_rss", help: "Size of RSS in bytes.", kind: metricGauge,
		usage: func(u *usage) *runtimeapi.UInt64Value { return u.memory.GetRssBytes() }},
	{name: "container_memory_swap", help: "Swap usage in bytes.", kind: metricGauge,
		usage: func(u *usage) *runtimeapi.UInt64Value { return u.swap.GetSwapUsageBytes() }},
	{name: metricLayer, help: "Number of bytes that are consumed on this filesystem.", kind: metricGauge,
		usage: func(u *usage) *runtimeapi.UInt64Value { return u.layer.GetUsedBytes() }},
	{name: "container_start_time_seconds", help: "Start time since unix epoch in seconds.", kind: metricGauge,
		usage: func(u *usage) *runtimeapi.UInt64Value {
			if u.start.IsZero() {
				return nil
			}
			return value(uint64(u.start.Unix()))
		}},
	{name: "container_network_receive_bytes_total", help: "Cumulative count of bytes received.", kind: metricCounter,
		network: func(n *runtimeapi.NetworkInterfaceUsage) *runtimeapi.UInt64Value { return n.RxBytes }},
	{name: "container_network_receive_errors_total", help: "Cumulative count of errors encountered while receiving.", kind: metricCounter,
		network: func(n *runtimeapi.NetworkInterfaceUsage) *runtimeapi.UInt64Value { return n.RxErrors }},
	{name: "container_network_transmit_bytes_total", help: "Cumulative count of bytes transmitted.", kind: metricCounter,
		network: func(n *runtimeapi.NetworkInterfaceUsage) *runtimeapi.UInt64Value { return n.TxBytes }},
	{name: "container_network_transmit_errors_total", help: "Cumulative count of errors encountered while transmitting.", kind: metricCounter,
		network: func(n *runtimeapi.NetworkInterfaceUsage) *runtimeapi.UInt64Value { return n.TxErrors }},
}

// at is when a value was measured, if not just now, in nanoseconds.
func (m metric) at(u *usage) int64 {
	if m.name == metricLayer {
		return u.layer.GetTimestamp()
	}
	return 0
}

// metricLabels are the keys of all metrics, in order; those of the network have the interface besides. What belongs to a
// Pod has no container, image and name.
var metricLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// ListMetricDescriptors describes the metrics of ListPodSandboxMetrics.
func (s *Service) ListMetricDescriptors(context.Context) ([]*runtimeapi.MetricDescriptor, error) {
	var list []*runtimeapi.MetricDescriptor
	for _, m := range metricsTable {
		labels := append([]string(nil), metricLabels...)
		if m.network != nil {
			labels = append(labels, "interface")
		}
		list = append(list, &runtimeapi.MetricDescriptor{Name: m.name, Help: m.help, LabelKeys: labels})
	}
	return list, nil
}

// ListPodSandboxMetrics tells what the running Pods and their running containers use.
func (s *Service) ListPodSandboxMetrics(ctx context.Context) ([]*runtimeapi.PodSandboxMetrics, error) {
	stats, err := s.ListPodSandboxStats(ctx, nil)
	if err != nil {
		return nil, err
	}
	var list []*runtimeapi.PodSandboxMetrics
	for _, st := range stats {
		sb, err := s.sandbox(st.Attributes.Id)
		if err != nil {
			continue // It has been removed meanwhile.
		}
		pod := st.Attributes.Metadata
		out := &runtimeapi.PodSandboxMetrics{PodSandboxId: sb.id}
		labels := []string{"", sb.id, "", "", pod.GetNamespace(), pod.GetName()}
		out.Metrics = measure(&usage{cpu: st.Linux.Cpu, memory: st.Linux.Memory, start: sb.get().CreatedAt}, st.Linux.Network, labels)
		for _, c := range st.Linux.Containers {
			known, err := s.container(c.Attributes.Id)
			if err != nil {
				continue
			}
			e := known.get()
			labels := []string{c.Attributes.Metadata.GetName(), e.ID, imageSpec(e.Config.Message).Image, e.ID, pod.GetNamespace(), pod.GetName()}
			out.ContainerMetrics = append(out.ContainerMetrics, &runtimeapi.ContainerMetrics{
				ContainerId: e.ID,
				Metrics:     measure(&usage{cpu: c.Cpu, memory: c.Memory, swap: c.Swap, layer: c.WritableLayer, start: e.StartedAt}, nil, labels),
			})
		}
		list = append(list, out)
	}
	return list, nil
}

// measure makes those metrics that are known.
func measure(u *usage, network *runtimeapi.NetworkUsage, labels []string) []*runtimeapi.Metric {
	var list []*runtimeapi.Metric
	put := func(m metric, v *runtimeapi.UInt64Value, labels []string) {
		if v != nil {
			list = append(list, &runtimeapi.Metric{Name: m.name, MetricType: m.kind, LabelValues: labels, Value: v, Timestamp: m.at(u)})
		}
	}
	for _, m := range metricsTable {
		if m.usage != nil {
			put(m, m.usage(u), labels)
			continue
		}
		if network.GetDefaultInterface() == nil {
			continue
		}
		for _, n := range append([]*runtimeapi.NetworkInterfaceUsage{network.DefaultInterface}, network.Interfaces...) {
			put(m, m.network(n), append(append([]string(nil), labels...), n.Name))
		}
	}
	return list
}
