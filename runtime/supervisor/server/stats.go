//go:build cgo

package server

import (
	"slices"
	"time"

	"github.com/opencontainers/cgroups"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// stats reads the counters of the running containers among ids, or of all if ids is empty. One that ends meanwhile is left out.
func (s *Server) stats(ids []string) []protocol.ContainerStats {
	s.mu.Lock()
	var live []*container
	for id, c := range s.containers {
		if len(ids) == 0 || slices.Contains(ids, id) {
			live = append(live, c)
		}
	}
	s.mu.Unlock()
	var all []protocol.ContainerStats
	for _, c := range live {
		if !c.watched() {
			continue
		}
		got, err := c.lib.Stats()
		if err != nil || got.CgroupStats == nil {
			continue
		}
		all = append(all, convertStats(c.id, got.CgroupStats))
	}
	return all
}

func convertStats(id string, g *cgroups.Stats) protocol.ContainerStats {
	memory := &g.MemoryStats
	st := protocol.ContainerStats{
		ID: id, Time: time.Now(),
		CPU:              g.CpuStats.CpuUsage.TotalUsage,
		CPUUser:          g.CpuStats.CpuUsage.UsageInUsermode,
		CPUKernel:        g.CpuStats.CpuUsage.UsageInKernelmode,
		CPUPeriods:       g.CpuStats.ThrottlingData.Periods,
		CPUThrottled:     g.CpuStats.ThrottlingData.ThrottledPeriods,
		CPUThrottledTime: g.CpuStats.ThrottlingData.ThrottledTime,
		MemoryUsage:      memory.Usage.Usage,
		MemoryLimit:      memory.Usage.Limit,
		MemoryMaxUsage:   memory.Usage.MaxUsage,
		MemoryFailCount:  memory.Usage.Failcnt,
		MemoryCache:      memory.Cache,
		Pids:             g.PidsStats.Current,
		PidsLimit:        g.PidsStats.Limit,
		PSI: protocol.PSIStats{
			CPU: pressure(g.CpuStats.PSI), Memory: pressure(memory.PSI), IO: pressure(g.BlkioStats.PSI),
		},
	}
	// The names differ between cgroup v1 (hierarchical totals) and v2.
	inactive := memory.Stats["inactive_file"]
	if cgroups.IsCgroup2UnifiedMode() {
		st.MemoryRSS = memory.Stats["anon"]
		st.PageFaults, st.MajorPageFaults = memory.Stats["pgfault"], memory.Stats["pgmajfault"]
		st.SwapUsage, st.SwapLimit = memory.SwapOnlyUsage.Usage, memory.SwapOnlyUsage.Limit
	} else {
		inactive = memory.Stats["total_inactive_file"]
		st.MemoryRSS = memory.Stats["total_rss"]
		st.PageFaults, st.MajorPageFaults = memory.Stats["total_pgfault"], memory.Stats["total_pgmajfault"]
		st.SwapUsage = memory.Stats["total_swap"]
	}
	if st.MemoryUsage > inactive {
		st.MemoryWorkingSet = st.MemoryUsage - inactive
	}
	return st
}

func pressure(p *cgroups.PSIStats) *protocol.Pressure {
	if p == nil {
		return nil
	}
	line := func(d cgroups.PSIData) protocol.PressureLine {
		return protocol.PressureLine{Avg10: d.Avg10, Avg60: d.Avg60, Avg300: d.Avg300, Total: d.Total}
	}
	return &protocol.Pressure{Some: line(p.Some), Full: line(p.Full)}
}
