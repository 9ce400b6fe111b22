package stats

import (
	"context"
	"runtime"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-base/metrics"
	"k8s.io/klog/v2"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/peapod/peapod/kubelet/pod"
)

// containerCollector makes the detailed metrics from Summary. A Pod's own are
// those with an empty container label, the machine's those with id "/". Those
// of containers have an image, by which the rules of monitoring tell them from
// what contains them, and as name the container's ID.
type containerCollector struct {
	metrics.BaseStableCollector
	p *Provider

	cpu, memUsage, workingSet, rss, swap, failures, start, seen family
	fsUsage, fsLimit, fsInodes, fsInodesFree                    family
	waiting, stalled                                            map[string]family
	network                                                     map[string]family
	machineCores, machineMemory, machineSwap, scrapeError       family
	all                                                         []family
}

func newContainerCollector(p *Provider) *containerCollector {
	c := &containerCollector{p: p, waiting: map[string]family{}, stalled: map[string]family{}, network: map[string]family{}}
	labels := func(more ...string) []string {
		return append(more, "container", "id", "image", "name", "namespace", "pod")
	}
	note := func(f family) family { c.all = append(c.all, f); return f }
	sum := func(name, help string, more ...string) family {
		return note(counter(name, help, metrics.ALPHA, labels(more...)...))
	}
	now := func(name, help string, more ...string) family {
		return note(gauge(name, help, metrics.ALPHA, labels(more...)...))
	}
	c.cpu = sum("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "cpu")
	c.memUsage = now("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed")
	c.workingSet = now("container_memory_working_set_bytes", "Current working set in bytes.")
	c.rss = now("container_memory_rss", "Size of RSS in bytes.")
	c.swap = now("container_memory_swap", "Container swap usage in bytes.")
	c.failures = sum("container_memory_failures_total", "Cumulative count of memory allocation failures.", "failure_type", "scope")
	c.start = now("container_start_time_seconds", "Start time of the container since unix epoch in seconds.")
	c.seen = now("container_last_seen", "Last time a container was seen by the exporter")
	c.fsUsage = now("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "device")
	c.fsLimit = now("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", "device")
	c.fsInodes = now("container_fs_inodes_total", "Number of Inodes", "device")
	c.fsInodesFree = now("container_fs_inodes_free", "Number of available Inodes", "device")
	for _, of := range []string{"cpu", "memory", "io"} {
		c.waiting[of] = sum("container_pressure_"+of+"_waiting_seconds_total", "Total time duration tasks in the container have waited due to "+of+" congestion.")
		c.stalled[of] = sum("container_pressure_"+of+"_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to "+of+" congestion.")
	}
	for name, help := range map[string]string{
		"receive_bytes": "Cumulative count of bytes received", "receive_errors": "Cumulative count of errors encountered while receiving",
		"transmit_bytes": "Cumulative count of bytes transmitted", "transmit_errors": "Cumulative count of errors encountered while transmitting",
	} {
		c.network[name] = sum("container_network_"+name+"_total", help, "interface")
	}
	c.machineCores = note(gauge("machine_cpu_cores", "Number of logical CPU cores.", metrics.ALPHA))
	c.machineMemory = note(gauge("machine_memory_bytes", "Amount of memory installed on the machine.", metrics.ALPHA))
	c.machineSwap = note(gauge("machine_swap_bytes", "Amount of swap memory available on the machine.", metrics.ALPHA))
	c.scrapeError = note(gauge("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", metrics.ALPHA))
	return c
}

// DescribeWithStability implements metrics.StableCollector.
func (c *containerCollector) DescribeWithStability(ch chan<- *metrics.Desc) {
	for _, f := range c.all {
		ch <- f.desc
	}
}

// CollectWithStability implements metrics.StableCollector.
func (c *containerCollector) CollectWithStability(ch chan<- metrics.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	out, failed := sink(ch), 0.0
	s, err := c.p.Summary(ctx)
	if err != nil {
		klog.FromContext(ctx).Error(err, "Measuring for container metrics failed")
		failed = 1
	} else {
		c.machine(out, &s.Node)
		for i := range s.Pods {
			c.pod(out, &s.Pods[i])
		}
	}
	out.put(c.scrapeError, time.Time{}, failed)
}

// at prefixes the values that every metric of one thing has in common.
type at struct{ container, id, image, name, namespace, pod string }

func (a at) labels(more ...string) []string {
	return append(more, a.container, a.id, a.image, a.name, a.namespace, a.pod)
}

func (c *containerCollector) machine(out sink, n *statsapi.NodeStats) {
	root := at{id: "/"}
	c.usage(out, root, n.CPU, n.Memory, n.IO, n.Swap)
	c.interfaces(out, root, n.Network)
	c.disk(out, root, n.Fs)
	out.put(c.start, time.Time{}, float64(n.StartTime.Unix()), root.labels()...)
	out.put(c.machineCores, time.Time{}, float64(runtime.NumCPU()))
	m, s := n.Memory, n.Swap
	out.put(c.machineMemory, time.Time{}, float64(*m.AvailableBytes+*m.WorkingSetBytes))
	out.put(c.machineSwap, time.Time{}, float64(*s.SwapAvailableBytes+*s.SwapUsageBytes))
}

func (c *containerCollector) pod(out sink, p *statsapi.PodStats) {
	whole := at{id: "/pod" + p.PodRef.UID, namespace: p.PodRef.Namespace, pod: p.PodRef.Name}
	c.usage(out, whole, p.CPU, p.Memory, p.IO, p.Swap)
	c.interfaces(out, whole, p.Network)
	out.put(c.start, time.Time{}, float64(p.StartTime.Unix()), whole.labels()...)
	known := c.statuses(types.UID(p.PodRef.UID))
	for i := range p.Containers {
		k := &p.Containers[i]
		one := whole
		one.container, one.id = k.Name, whole.id+"/"+k.Name
		if status, ok := known[k.Name]; ok {
			one.image = status.Image
			one.name = pod.InstanceID(status.ContainerID)
		}
		c.usage(out, one, k.CPU, k.Memory, k.IO, k.Swap)
		c.disk(out, one, k.Rootfs)
		if k.StartTime.Unix() > 0 {
			out.put(c.start, time.Time{}, float64(k.StartTime.UnixNano())/float64(time.Second), one.labels()...)
		}
	}
}

// statuses are those of a Pod's containers, by name.
func (c *containerCollector) statuses(uid types.UID) map[string]v1.ContainerStatus {
	out := map[string]v1.ContainerStatus{}
	p, ok := c.p.cfg.Pods().PodByUID(uid)
	if !ok {
		return out
	}
	for _, list := range [][]v1.ContainerStatus{p.Status.InitContainerStatuses, p.Status.ContainerStatuses, p.Status.EphemeralContainerStatuses} {
		for _, s := range list {
			out[s.Name] = s
		}
	}
	return out
}

func (c *containerCollector) usage(out sink, a at, cpu *statsapi.CPUStats, m *statsapi.MemoryStats, io *statsapi.IOStats, swap *statsapi.SwapStats) {
	if cpu != nil {
		out.seconds(c.cpu, cpu.Time.Time, cpu.UsageCoreNanoSeconds, a.labels("total")...)
		out.put(c.seen, time.Time{}, float64(cpu.Time.Unix()), a.labels()...)
		c.pressure(out, a, "cpu", cpu.Time.Time, cpu.PSI)
	}
	if m != nil {
		out.bytes(c.memUsage, m.Time.Time, m.UsageBytes, a.labels()...)
		out.bytes(c.workingSet, m.Time.Time, m.WorkingSetBytes, a.labels()...)
		out.bytes(c.rss, m.Time.Time, m.RSSBytes, a.labels()...)
		out.bytes(c.failures, m.Time.Time, m.PageFaults, a.labels("pgfault", "container")...)
		out.bytes(c.failures, m.Time.Time, m.MajorPageFaults, a.labels("pgmajfault", "container")...)
		c.pressure(out, a, "memory", m.Time.Time, m.PSI)
	}
	if io != nil {
		c.pressure(out, a, "io", io.Time.Time, io.PSI)
	}
	if swap != nil {
		out.bytes(c.swap, swap.Time.Time, swap.SwapUsageBytes, a.labels()...)
	}
}

func (c *containerCollector) pressure(out sink, a at, of string, when time.Time, p *statsapi.PSIStats) {
	if p != nil {
		out.seconds(c.waiting[of], when, &p.Some.Total, a.labels()...)
		out.seconds(c.stalled[of], when, &p.Full.Total, a.labels()...)
	}
}

func (c *containerCollector) disk(out sink, a at, fs *statsapi.FsStats) {
	if fs == nil {
		return
	}
	out.bytes(c.fsUsage, fs.Time.Time, fs.UsedBytes, a.labels("")...)
	out.bytes(c.fsLimit, fs.Time.Time, fs.CapacityBytes, a.labels("")...)
	out.bytes(c.fsInodes, fs.Time.Time, fs.Inodes, a.labels("")...)
	out.bytes(c.fsInodesFree, fs.Time.Time, fs.InodesFree, a.labels("")...)
}

func (c *containerCollector) interfaces(out sink, a at, n *statsapi.NetworkStats) {
	if n == nil {
		return
	}
	for i := range n.Interfaces {
		f := &n.Interfaces[i]
		out.bytes(c.network["receive_bytes"], n.Time.Time, f.RxBytes, a.labels(f.Name)...)
		out.bytes(c.network["receive_errors"], n.Time.Time, f.RxErrors, a.labels(f.Name)...)
		out.bytes(c.network["transmit_bytes"], n.Time.Time, f.TxBytes, a.labels(f.Name)...)
		out.bytes(c.network["transmit_errors"], n.Time.Time, f.TxErrors, a.labels(f.Name)...)
	}
}
