package stats

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sort"
	"strings"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/storage/ephemeral"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/pod"
)

// pods are the statistics of the running Pods, by namespace and name. The
// caller holds the turn.
func (p *Provider) pods(ctx context.Context, full bool) ([]statsapi.PodStats, error) {
	list, err := p.sandboxes(ctx, nil)
	if err != nil {
		return nil, err
	}
	started, err := p.startTimes(ctx, nil)
	if err != nil {
		return nil, err
	}
	now := p.cfg.Clock.Now()
	lookup := p.cfg.Pods()
	out := make([]statsapi.PodStats, 0, len(list))
	for _, s := range list {
		labels := s.GetAttributes().GetLabels()
		spec, ok := lookup.PodByUID(types.UID(labels[criconfig.LabelPodUID]))
		if !ok {
			continue
		}
		ps := p.podUsage(s, started)
		if full {
			if err := p.podDisks(ctx, spec, s, &ps, p.cfg.DiskAge); err != nil {
				return nil, err
			}
		}
		out = append(out, ps)
	}
	if full {
		p.disks.keep(now.Add(-time.Hour))
	}
	sort.Slice(out, func(i, j int) bool {
		a, b := out[i].PodRef, out[j].PodRef
		if a.Namespace != b.Namespace {
			return a.Namespace < b.Namespace
		}
		return a.Name < b.Name
	})
	return out, nil
}

// Storage is what one running Pod holds on disk, no older than age but where
// measuring it is costly. Containers and volumes only: no CPU, no memory. A Pod
// that does not run yields nil.
func (p *Provider) Storage(ctx context.Context, spec *v1.Pod, age time.Duration) (*statsapi.PodStats, error) {
	list, err := p.sandboxes(ctx, map[string]string{criconfig.LabelPodUID: string(spec.UID)})
	if err != nil || len(list) == 0 {
		return nil, err
	}
	ps := statsapi.PodStats{PodRef: reference(list[0].GetAttributes().GetLabels())}
	for _, c := range list[0].GetLinux().GetContainers() {
		ps.Containers = append(ps.Containers, statsapi.ContainerStats{Name: containerName(c)})
	}
	if err := p.podDisks(ctx, spec, list[0], &ps, age); err != nil {
		return nil, err
	}
	return &ps, nil
}

// sandboxes asks for the running Pods with their running containers. A runtime
// that knows statistics of containers only is asked for those.
func (p *Provider) sandboxes(ctx context.Context, labels map[string]string) ([]*runtimeapi.PodSandboxStats, error) {
	list, err := p.cfg.Runtime.ListPodSandboxStats(ctx, &runtimeapi.PodSandboxStatsFilter{LabelSelector: labels})
	if err == nil {
		return list, nil
	}
	if status.Code(err) != codes.Unimplemented {
		return nil, fmt.Errorf("ask the container runtime for statistics of Pods: %w", err)
	}
	containers, err := p.cfg.Runtime.ListContainerStats(ctx, &runtimeapi.ContainerStatsFilter{LabelSelector: labels})
	if err != nil {
		return nil, fmt.Errorf("ask the container runtime for statistics of containers: %w", err)
	}
	return group(containers), nil
}

// group makes Pods of their containers: usage is the sum.
func group(containers []*runtimeapi.ContainerStats) []*runtimeapi.PodSandboxStats {
	byUID := map[string]*runtimeapi.PodSandboxStats{}
	var out []*runtimeapi.PodSandboxStats
	add := func(to **runtimeapi.UInt64Value, v *runtimeapi.UInt64Value) {
		if *to == nil {
			*to = &runtimeapi.UInt64Value{}
		}
		(*to).Value += v.GetValue()
	}
	for _, c := range containers {
		uid := c.GetAttributes().GetLabels()[criconfig.LabelPodUID]
		s := byUID[uid]
		if s == nil {
			s = &runtimeapi.PodSandboxStats{
				Attributes: &runtimeapi.PodSandboxAttributes{Labels: c.GetAttributes().GetLabels()},
				Linux:      &runtimeapi.LinuxPodSandboxStats{Cpu: &runtimeapi.CpuUsage{}, Memory: &runtimeapi.MemoryUsage{}},
			}
			byUID[uid] = s
			out = append(out, s)
		}
		l := s.Linux
		l.Containers = append(l.Containers, c)
		l.Cpu.Timestamp = max(l.Cpu.Timestamp, c.GetCpu().GetTimestamp())
		add(&l.Cpu.UsageCoreNanoSeconds, c.GetCpu().GetUsageCoreNanoSeconds())
		m := c.GetMemory()
		l.Memory.Timestamp = max(l.Memory.Timestamp, m.GetTimestamp())
		add(&l.Memory.WorkingSetBytes, m.GetWorkingSetBytes())
		add(&l.Memory.UsageBytes, m.GetUsageBytes())
		add(&l.Memory.RssBytes, m.GetRssBytes())
		add(&l.Memory.PageFaults, m.GetPageFaults())
		add(&l.Memory.MajorPageFaults, m.GetMajorPageFaults())
	}
	return out
}

// startTimes are when sandboxes and containers were created, by ID.
func (p *Provider) startTimes(ctx context.Context, labels map[string]string) (map[string]int64, error) {
	out := map[string]int64{}
	sandboxes, err := p.cfg.Runtime.ListPodSandbox(ctx, &runtimeapi.PodSandboxFilter{LabelSelector: labels})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		out[s.Id] = s.CreatedAt
	}
	containers, err := p.cfg.Runtime.ListContainers(ctx, &runtimeapi.ContainerFilter{LabelSelector: labels})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		out[c.Id] = c.CreatedAt
	}
	return out, nil
}

func reference(labels map[string]string) statsapi.PodReference {
	return statsapi.PodReference{
		Name: labels[criconfig.LabelPodName], Namespace: labels[criconfig.LabelPodNamespace], UID: labels[criconfig.LabelPodUID],
	}
}

func containerName(c *runtimeapi.ContainerStats) string {
	if n := c.GetAttributes().GetLabels()[criconfig.LabelContainerName]; n != "" {
		return n
	}
	return c.GetAttributes().GetMetadata().GetName()
}

// podUsage converts what CRI says of a Pod and its containers.
func (p *Provider) podUsage(s *runtimeapi.PodSandboxStats, started map[string]int64) statsapi.PodStats {
	a, l := s.GetAttributes(), s.GetLinux()
	out := statsapi.PodStats{PodRef: reference(a.GetLabels()), Containers: []statsapi.ContainerStats{}}
	if at, ok := started[a.GetId()]; ok {
		out.StartTime = nanos(at)
	} else if spec, ok := p.cfg.Pods().PodByUID(types.UID(out.PodRef.UID)); ok && spec.Status.StartTime != nil {
		out.StartTime = *spec.Status.StartTime
	}
	out.CPU = p.cpu("pod/"+out.PodRef.UID, l.GetCpu())
	out.Memory = memory(l.GetMemory())
	out.IO = ioStats(l.GetIo())
	swap := &statsapi.SwapStats{}
	for _, c := range l.GetContainers() {
		cs := statsapi.ContainerStats{Name: containerName(c), StartTime: nanos(started[c.GetAttributes().GetId()])}
		cs.CPU = p.cpu("container/"+c.GetAttributes().GetId(), c.GetCpu())
		cs.Memory = memory(c.GetMemory())
		cs.IO = ioStats(c.GetIo())
		if c.Swap != nil {
			cs.Swap = &statsapi.SwapStats{
				Time: nanos(c.Swap.Timestamp), SwapUsageBytes: number(c.Swap.SwapUsageBytes), SwapAvailableBytes: number(c.Swap.SwapAvailableBytes),
			}
			swap.Time = cs.Swap.Time
			swap.SwapUsageBytes = sum(swap.SwapUsageBytes, cs.Swap.SwapUsageBytes)
			swap.SwapAvailableBytes = sum(swap.SwapAvailableBytes, cs.Swap.SwapAvailableBytes)
		}
		out.Containers = append(out.Containers, cs)
	}
	sort.Slice(out.Containers, func(i, j int) bool { return out.Containers[i].Name < out.Containers[j].Name })
	if swap.SwapUsageBytes != nil {
		out.Swap = swap
	}
	if n := l.GetNetwork(); n != nil {
		out.Network = &statsapi.NetworkStats{Time: nanos(n.Timestamp)}
		if d := n.DefaultInterface; d != nil {
			out.Network.InterfaceStats = netInterface(d)
			out.Network.Interfaces = append(out.Network.Interfaces, netInterface(d))
		}
		for _, i := range n.Interfaces {
			out.Network.Interfaces = append(out.Network.Interfaces, netInterface(i))
		}
	}
	if c := l.GetProcess().GetProcessCount(); c != nil {
		out.ProcessStats = &statsapi.ProcessStats{ProcessCount: &c.Value}
	}
	return out
}

func number(v *runtimeapi.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return ptr(v.Value)
}

func sum(a, b *uint64) *uint64 {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	}
	return ptr(*a + *b)
}

func (p *Provider) cpu(key string, c *runtimeapi.CpuUsage) *statsapi.CPUStats {
	if c == nil {
		return nil
	}
	out := &statsapi.CPUStats{
		Time: nanos(c.Timestamp), UsageCoreNanoSeconds: number(c.UsageCoreNanoSeconds), UsageNanoCores: number(c.UsageNanoCores), PSI: psi(c.Psi),
	}
	if out.UsageNanoCores == nil && out.UsageCoreNanoSeconds != nil {
		out.UsageNanoCores = p.nanoCores(key, out.Time.Time, *out.UsageCoreNanoSeconds)
	}
	return out
}

func memory(m *runtimeapi.MemoryUsage) *statsapi.MemoryStats {
	if m == nil {
		return nil
	}
	return &statsapi.MemoryStats{
		Time: nanos(m.Timestamp), AvailableBytes: number(m.AvailableBytes), UsageBytes: number(m.UsageBytes),
		WorkingSetBytes: number(m.WorkingSetBytes), RSSBytes: number(m.RssBytes),
		PageFaults: number(m.PageFaults), MajorPageFaults: number(m.MajorPageFaults), PSI: psi(m.Psi),
	}
}

func ioStats(i *runtimeapi.IoUsage) *statsapi.IOStats {
	if i == nil || i.Psi == nil {
		return nil
	}
	return &statsapi.IOStats{Time: nanos(i.Timestamp), PSI: psi(i.Psi)}
}

func psi(p *runtimeapi.PsiStats) *statsapi.PSIStats {
	if p == nil {
		return nil
	}
	data := func(d *runtimeapi.PsiData) statsapi.PSIData {
		return statsapi.PSIData{Total: d.GetTotal(), Avg10: d.GetAvg10(), Avg60: d.GetAvg60(), Avg300: d.GetAvg300()}
	}
	return &statsapi.PSIStats{Full: data(p.Full), Some: data(p.Some)}
}

func netInterface(i *runtimeapi.NetworkInterfaceUsage) statsapi.InterfaceStats {
	return statsapi.InterfaceStats{
		Name: i.Name, RxBytes: number(i.RxBytes), RxErrors: number(i.RxErrors), TxBytes: number(i.TxBytes), TxErrors: number(i.TxErrors),
	}
}

// podDisks fills in what a Pod holds on disk: its containers' own layers and
// logs, and its volumes. The containers in ps are there already.
func (p *Provider) podDisks(ctx context.Context, spec *v1.Pod, s *runtimeapi.PodSandboxStats, ps *statsapi.PodStats, age time.Duration) error {
	now := p.cfg.Clock.Now()
	node, err := FileSystem(p.cfg.RootDir, now)
	if err != nil {
		return err
	}
	path, err := p.ImageFsPath(ctx)
	if err != nil {
		return err
	}
	images, err := FileSystem(path, now)
	if err != nil {
		return err
	}
	layers := map[string]*runtimeapi.FilesystemUsage{}
	for _, c := range s.GetLinux().GetContainers() {
		layers[containerName(c)] = c.GetWritableLayer()
	}
	var total Disk
	logs := criconfig.PodLogDir(p.cfg.LogDir, spec)
	for i := range ps.Containers {
		c := &ps.Containers[i]
		if l := layers[c.Name]; l.GetUsedBytes() != nil {
			d := Disk{Bytes: l.UsedBytes.Value, Inodes: l.GetInodesUsed().GetValue()}
			total.add(d)
			c.Rootfs = used(images, d, nanos(l.Timestamp).Time)
		}
		// Logs are few files in one directory and grow fast.
		d, at, err := p.disks.measure(ctx, filepath.Join(logs, c.Name), min(age, 10*time.Second))
		if err != nil {
			return err
		}
		total.add(d)
		c.Logs = used(node, d, at)
	}
	if ps.VolumeStats, err = p.volumes(ctx, spec, node, age, &total); err != nil {
		return err
	}
	ps.EphemeralStorage = used(node, total, now)
	return nil
}

// volumes measures a Pod's volumes and adds to ephemeral what of them is on the
// node's disk and goes with the Pod.
func (p *Provider) volumes(ctx context.Context, spec *v1.Pod, node *statsapi.FsStats, age time.Duration, ephemeral *Disk) ([]statsapi.VolumeStats, error) {
	dirs, err := volumeDirs(filepath.Join(pod.Dir(p.cfg.RootDir, spec.UID), "volumes"))
	if err != nil {
		return nil, err
	}
	var out []statsapi.VolumeStats
	for i := range spec.Spec.Volumes {
		v := &spec.Spec.Volumes[i]
		dir := dirs[v.Name]
		if dir == "" { // not set up yet, or nothing that is the kubelet's
			if stats := p.elsewhere(ctx, spec, v); stats != nil {
				out = append(out, *stats)
			}
			continue
		}
		memory, err := inMemory(dir)
		if missing(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if claim := claimOf(spec, v); memory || claim != nil {
			// What a claim stands for outlives the Pod and may be large: it is told as its file system tells.
			room, err := FileSystem(dir, p.cfg.Clock.Now())
			if err != nil {
				return nil, err
			}
			out = append(out, statsapi.VolumeStats{Name: v.Name, PVCRef: claim, FsStats: *room})
			continue
		}
		d, at, err := p.disks.measure(ctx, dir, age)
		if err != nil {
			return nil, err
		}
		out = append(out, statsapi.VolumeStats{Name: v.Name, FsStats: *used(node, d, at)})
		if v.EmptyDir != nil || v.ConfigMap != nil || v.DownwardAPI != nil {
			ephemeral.add(d)
		}
	}
	return out, nil
}

// elsewhere is how full a volume of a driver's is, nil where that is not known.
func (p *Provider) elsewhere(ctx context.Context, spec *v1.Pod, v *v1.Volume) *statsapi.VolumeStats {
	claim := claimOf(spec, v)
	if p.cfg.Measure == nil || (claim == nil && v.CSI == nil) {
		return nil
	}
	room := p.cfg.Measure(ctx, spec.UID, v.Name)
	if room == nil {
		return nil
	}
	return &statsapi.VolumeStats{Name: v.Name, PVCRef: claim, FsStats: *room}
}

// claimOf names the claim of a volume, nil where it has none.
func claimOf(spec *v1.Pod, v *v1.Volume) *statsapi.PVCReference {
	switch {
	case v.PersistentVolumeClaim != nil:
		return &statsapi.PVCReference{Namespace: spec.Namespace, Name: v.PersistentVolumeClaim.ClaimName}
	case v.Ephemeral != nil:
		return &statsapi.PVCReference{Namespace: spec.Namespace, Name: ephemeral.VolumeClaimName(spec, v)}
	}
	return nil
}

// volumeDirs finds the directories of a Pod's volumes by name. They are
// <dir>/kubernetes.io~<kind>/<name>.
func volumeDirs(dir string) (map[string]string, error) {
	out := map[string]string{}
	kinds, err := os.ReadDir(dir)
	if missing(err) {
		return out, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list volumes: %w", err)
	}
	for _, k := range kinds {
		if !strings.HasPrefix(k.Name(), "kubernetes.io~") {
			continue
		}
		names, err := os.ReadDir(filepath.Join(dir, k.Name()))
		if err != nil && !missing(err) {
			return nil, fmt.Errorf("list volumes: %w", err)
		}
		for _, n := range names {
			out[n.Name()] = filepath.Join(dir, k.Name(), n.Name())
		}
	}
	return out, nil
}
