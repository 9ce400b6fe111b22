//go:build cgo

package server

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	"github.com/opencontainers/runc/libcontainer"
	"github.com/opencontainers/runc/libcontainer/configs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// newProcess converts a runtime-spec process.
func newProcess(p *specs.Process) (*libcontainer.Process, error) {
	if len(p.Args) == 0 {
		return nil, fmt.Errorf("process has no arguments")
	}
	lp := &libcontainer.Process{
		Args: p.Args, Env: p.Env, Cwd: p.Cwd,
		UID: int(p.User.UID), GID: int(p.User.GID),
		NoNewPrivileges: &p.NoNewPrivileges,
		AppArmorProfile: p.ApparmorProfile,
		Label:           p.SelinuxLabel,
		Scheduler:       p.Scheduler,
		IOPriority:      p.IOPriority,
	}
	for _, g := range p.User.AdditionalGids {
		lp.AdditionalGroups = append(lp.AdditionalGroups, int(g))
	}
	if size := p.ConsoleSize; size != nil {
		lp.ConsoleWidth, lp.ConsoleHeight = uint16(size.Width), uint16(size.Height)
	}
	if caps := p.Capabilities; caps != nil {
		lp.Capabilities = &configs.Capabilities{
			Bounding: caps.Bounding, Effective: caps.Effective, Permitted: caps.Permitted,
			Inheritable: caps.Inheritable, Ambient: caps.Ambient,
		}
	}
	for _, r := range p.Rlimits {
		kind, ok := rlimits[r.Type]
		if !ok {
			return nil, fmt.Errorf("unknown resource limit %q", r.Type)
		}
		lp.Rlimits = append(lp.Rlimits, configs.Rlimit{Type: kind, Hard: r.Hard, Soft: r.Soft})
	}
	return lp, nil
}

var rlimits = map[string]int{
	"RLIMIT_AS": unix.RLIMIT_AS, "RLIMIT_CORE": unix.RLIMIT_CORE, "RLIMIT_CPU": unix.RLIMIT_CPU, "RLIMIT_DATA": unix.RLIMIT_DATA,
	"RLIMIT_FSIZE": unix.RLIMIT_FSIZE, "RLIMIT_LOCKS": unix.RLIMIT_LOCKS, "RLIMIT_MEMLOCK": unix.RLIMIT_MEMLOCK,
	"RLIMIT_MSGQUEUE": unix.RLIMIT_MSGQUEUE, "RLIMIT_NICE": unix.RLIMIT_NICE, "RLIMIT_NOFILE": unix.RLIMIT_NOFILE,
	"RLIMIT_NPROC": unix.RLIMIT_NPROC, "RLIMIT_RSS": unix.RLIMIT_RSS, "RLIMIT_RTPRIO": unix.RLIMIT_RTPRIO,
	"RLIMIT_RTTIME": unix.RLIMIT_RTTIME, "RLIMIT_SIGPENDING": unix.RLIMIT_SIGPENDING, "RLIMIT_STACK": unix.RLIMIT_STACK,
}

// clampOOMScore raises a score below the supervisor's own where the kernel would refuse it: lowering needs CAP_SYS_RESOURCE, which
// nested machines lack, and the start would fail without a word of why.
func clampOOMScore(p *specs.Process) {
	if p.OOMScoreAdj == nil || hasSysResource() {
		return
	}
	raw, err := os.ReadFile("/proc/self/oom_score_adj")
	if err != nil {
		return // then the kernel judges
	}
	own, err := strconv.Atoi(strings.TrimSpace(string(raw)))
	if err == nil && *p.OOMScoreAdj < own {
		p.OOMScoreAdj = &own
	}
}

func hasSysResource() bool {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return false
	}
	return data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// applyResources lays the limits that r gives over those in force.
func applyResources(dst *cgroups.Resources, r *specs.LinuxResources) {
	if cpu := r.CPU; cpu != nil {
		if cpu.Shares != nil {
			dst.CpuShares = *cpu.Shares
			dst.CpuWeight = cgroups.ConvertCPUSharesToCgroupV2Value(*cpu.Shares)
		}
		if cpu.Quota != nil {
			dst.CpuQuota = *cpu.Quota
		}
		if cpu.Period != nil {
			dst.CpuPeriod = *cpu.Period
		}
		if cpu.Cpus != "" {
			dst.CpusetCpus = cpu.Cpus
		}
		if cpu.Mems != "" {
			dst.CpusetMems = cpu.Mems
		}
	}
	if memory := r.Memory; memory != nil {
		if memory.Limit != nil {
			dst.Memory = *memory.Limit
		}
		if memory.Swap != nil {
			dst.MemorySwap = *memory.Swap
		}
		if memory.Reservation != nil {
			dst.MemoryReservation = *memory.Reservation
		}
	}
	if r.Pids != nil && r.Pids.Limit != nil {
		dst.PidsLimit = r.Pids.Limit
	}
	for _, h := range r.HugepageLimits {
		dst.HugetlbLimit = slices.DeleteFunc(slices.Clone(dst.HugetlbLimit), func(old *cgroups.HugepageLimit) bool {
			return old.Pagesize == h.Pagesize
		})
		dst.HugetlbLimit = append(dst.HugetlbLimit, &cgroups.HugepageLimit{Pagesize: h.Pagesize, Limit: h.Limit})
	}
	if len(r.Unified) > 0 {
		unified := map[string]string{}
		for _, m := range []map[string]string{dst.Unified, r.Unified} {
			for k, v := range m {
				unified[k] = v
			}
		}
		dst.Unified = unified
	}
}
