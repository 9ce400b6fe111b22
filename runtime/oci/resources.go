package oci

import (
	"os"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Resources converts cgroup limits; zero means unlimited. CPU shares are cgroup v1's unit, which libcontainer converts to v2's weight.
func Resources(r *runtimeapi.LinuxContainerResources, host *Host) *specs.LinuxResources {
	out := &specs.LinuxResources{}
	if r == nil {
		return out
	}
	cpu := &specs.LinuxCPU{Cpus: r.CpusetCpus, Mems: r.CpusetMems}
	if r.CpuShares != 0 {
		cpu.Shares = ptr(uint64(r.CpuShares))
	}
	if r.CpuQuota != 0 {
		cpu.Quota = ptr(r.CpuQuota)
	}
	if r.CpuPeriod != 0 {
		cpu.Period = ptr(uint64(r.CpuPeriod))
	}
	out.CPU = cpu
	if r.MemoryLimitInBytes != 0 {
		out.Memory = &specs.LinuxMemory{Limit: ptr(r.MemoryLimitInBytes)}
	}
	if r.MemorySwapLimitInBytes != 0 && host.Swap {
		if out.Memory == nil {
			out.Memory = &specs.LinuxMemory{}
		}
		out.Memory.Swap = ptr(r.MemorySwapLimitInBytes)
	}
	if host.Hugetlb {
		for _, h := range r.HugepageLimits {
			out.HugepageLimits = append(out.HugepageLimits, specs.LinuxHugepageLimit{Pagesize: h.PageSize, Limit: h.Limit})
		}
	}
	if host.CgroupV2 && len(r.Unified) > 0 {
		out.Unified = r.Unified
	}
	return out
}

// devices are the access rules and the nodes that a container gets beyond the usual ones (null, zero, full, random, urandom, tty).
func devices(in *Input, privileged bool) ([]specs.LinuxDeviceCgroup, []specs.LinuxDevice) {
	if privileged {
		return []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}, append(append([]specs.LinuxDevice(nil), in.Host.Devices...), in.Devices...)
	}
	rules := []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}
	for _, d := range in.Devices {
		rules = append(rules, specs.LinuxDeviceCgroup{
			Allow: true, Type: d.Type, Major: ptr(d.Major), Minor: ptr(d.Minor), Access: access(in.Config.Devices, d.Path),
		})
	}
	return rules, in.Devices
}

// access is what the request permits of the device at path in the container.
func access(requests []*runtimeapi.Device, path string) string {
	best := ""
	for _, r := range requests {
		if path == r.ContainerPath || strings.HasPrefix(path, r.ContainerPath+string(os.PathSeparator)) {
			best = r.Permissions
		}
	}
	if best == "" {
		return "rwm"
	}
	return best
}

func ptr[T any](v T) *T { return &v }
