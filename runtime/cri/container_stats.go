package cri

import (
	"context"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/runtime/snapshot"
	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// ContainerStats returns the usage of one container.
func (s *Service) ContainerStats(ctx context.Context, id string) (*runtimeapi.ContainerStats, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, err
	}
	stats, err := s.statsOf(ctx, []*container{c})
	if err != nil {
		return nil, err
	}
	if len(stats) == 0 {
		return nil, status.Errorf(codes.NotFound, "container %q has no statistics: it is in %s state", id, func() runtimeapi.ContainerState { e := c.get(); return e.state() }())
	}
	return stats[0], nil
}

// ListContainerStats returns the usage of the running containers that the filter matches.
func (s *Service) ListContainerStats(ctx context.Context, filter *runtimeapi.ContainerStatsFilter) ([]*runtimeapi.ContainerStats, error) {
	var list []*container
	for _, c := range s.allContainers() {
		e := c.get()
		if e.Phase == phaseRunning && (filter.GetId() == "" || filter.Id == c.id) &&
			(filter.GetPodSandboxId() == "" || filter.PodSandboxId == c.sandboxID) &&
			matches(e.Config.Message.Labels, filter.GetLabelSelector()) {
			list = append(list, c)
		}
	}
	return s.statsOf(ctx, list)
}

// statsOf asks the supervisor once for all. A container that ended meanwhile is left out.
func (s *Service) statsOf(ctx context.Context, list []*container) ([]*runtimeapi.ContainerStats, error) {
	if len(list) == 0 {
		return nil, nil
	}
	ids := make([]string, len(list))
	for i, c := range list {
		ids[i] = c.id
	}
	raw, err := s.cfg.Supervisor.Stats(ctx, ids...)
	if err != nil {
		return nil, err
	}
	byID := make(map[string]*protocol.ContainerStats, len(raw))
	for i := range raw {
		byID[raw[i].ID] = &raw[i]
	}
	var out []*runtimeapi.ContainerStats
	for _, c := range list {
		if st := byID[c.id]; st != nil {
			out = append(out, s.convertStats(ctx, c, st))
		}
	}
	return out, nil
}

func (s *Service) convertStats(ctx context.Context, c *container, st *protocol.ContainerStats) *runtimeapi.ContainerStats {
	config := c.get().Config.Message
	out := &runtimeapi.ContainerStats{
		Attributes: &runtimeapi.ContainerAttributes{
			Id: c.id, Metadata: config.Metadata, Labels: config.Labels, Annotations: config.Annotations,
		},
		Cpu: cpuUsage(st), Memory: memoryUsage(st),
		Swap: &runtimeapi.SwapUsage{Timestamp: st.Time.UnixNano(), SwapUsageBytes: value(st.SwapUsage)},
		Io:   &runtimeapi.IoUsage{Timestamp: st.Time.UnixNano(), Psi: psi(st.PSI.IO)},
	}
	if st.SwapLimit > st.SwapUsage && st.SwapLimit < noLimit {
		out.Swap.SwapAvailableBytes = value(st.SwapLimit - st.SwapUsage)
	}
	usage, at, err := s.layerUsage(ctx, c)
	if err != nil {
		s.log.V(2).Info("No disk usage of container", "container", c.id, "err", err)
		return out
	}
	out.WritableLayer = &runtimeapi.FilesystemUsage{
		Timestamp: at.UnixNano(), UsedBytes: value(uint64(usage.Bytes)), InodesUsed: value(uint64(usage.Inodes)),
		FsId: &runtimeapi.FilesystemIdentifier{Mountpoint: s.rootfs(c.id)},
	}
	return out
}

// layerAge is how old a measurement of a writable layer may be: it costs a walk over all files.
const layerAge = 10 * time.Second

// layerUsage measures what a container has written, or returns the last measurement and when that was.
func (s *Service) layerUsage(ctx context.Context, c *container) (snapshot.Usage, time.Time, error) {
	c.layer.Lock()
	defer c.layer.Unlock()
	if now := time.Now(); now.Sub(c.layer.at) > layerAge {
		usage, err := s.cfg.Snapshots.Usage(ctx, c.id)
		if err != nil {
			return snapshot.Usage{}, now, err
		}
		c.layer.usage, c.layer.at = usage, now
	}
	return c.layer.usage, c.layer.at, nil
}

// noLimit is where cgroups mean "unlimited".
const noLimit = 1 << 60

func cpuUsage(st *protocol.ContainerStats) *runtimeapi.CpuUsage {
	return &runtimeapi.CpuUsage{Timestamp: st.Time.UnixNano(), UsageCoreNanoSeconds: value(st.CPU), Psi: psi(st.PSI.CPU)}
}

func memoryUsage(st *protocol.ContainerStats) *runtimeapi.MemoryUsage {
	m := &runtimeapi.MemoryUsage{
		Timestamp: st.Time.UnixNano(), WorkingSetBytes: value(st.MemoryWorkingSet), UsageBytes: value(st.MemoryUsage),
		RssBytes: value(st.MemoryRSS), PageFaults: value(st.PageFaults), MajorPageFaults: value(st.MajorPageFaults), Psi: psi(st.PSI.Memory),
	}
	if st.MemoryLimit > 0 && st.MemoryLimit < noLimit {
		available := uint64(0)
		if st.MemoryLimit > st.MemoryWorkingSet {
			available = st.MemoryLimit - st.MemoryWorkingSet
		}
		m.AvailableBytes = value(available)
	}
	return m
}

func psi(p *protocol.Pressure) *runtimeapi.PsiStats {
	if p == nil {
		return nil
	}
	line := func(l protocol.PressureLine) *runtimeapi.PsiData {
		// The kernel counts microseconds, CRI nanoseconds.
		return &runtimeapi.PsiData{Total: l.Total * 1000, Avg10: l.Avg10, Avg60: l.Avg60, Avg300: l.Avg300}
	}
	return &runtimeapi.PsiStats{Some: line(p.Some), Full: line(p.Full)}
}

func value(v uint64) *runtimeapi.UInt64Value { return &runtimeapi.UInt64Value{Value: v} }
