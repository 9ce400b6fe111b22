package criconfig

import (
	"strings"

	v1 "k8s.io/api/core/v1"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/qos"
)

// The CFS period in microseconds, the smallest quota the kernel takes, and the
// smallest and greatest cpu.shares.
const (
	cfsPeriod = 100_000
	minQuota  = 1_000
	minShares = 2
	maxShares = 262_144
)

// CPUShares converts a CPU request in thousandths to cpu.shares.
func CPUShares(milli int64) int64 {
	if milli == 0 {
		return minShares
	}
	return min(max(milli*1024/1000, minShares), maxShares)
}

// CPUQuota converts a CPU limit in thousandths to a CFS quota per period; no
// limit is 0.
func CPUQuota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*cfsPeriod/1000, minQuota)
}

func linuxResources(requests, limits v1.ResourceList) *runtimeapi.LinuxContainerResources {
	cpuRequest, cpuLimit := requests.Cpu().MilliValue(), limits.Cpu().MilliValue()
	if _, ok := requests[v1.ResourceCPU]; !ok && cpuLimit != 0 {
		cpuRequest = cpuLimit
	}
	r := &runtimeapi.LinuxContainerResources{
		CpuShares: CPUShares(cpuRequest), CpuQuota: CPUQuota(cpuLimit), CpuPeriod: cfsPeriod,
		MemoryLimitInBytes: limits.Memory().Value(),
	}
	for name, q := range limits {
		if size, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix); ok {
			// The kernel writes page sizes as 2MB and 1GB.
			size = strings.TrimSuffix(size, "i") + "B"
			r.HugepageLimits = append(r.HugepageLimits, &runtimeapi.HugepageLimit{PageSize: size, Limit: uint64(q.Value())})
		}
	}
	return r
}

// ContainerResources are the limits of one container.
func ContainerResources(pod *v1.Pod, c *v1.Container, node *Node) *runtimeapi.LinuxContainerResources {
	limits := c.Resources.Limits
	r := linuxResources(c.Resources.Requests, limits)
	r.OomScoreAdj = oomScoreAdj(pod, c, node.MemoryCapacity)
	if node.CgroupV2 {
		r.Unified = map[string]string{"memory.oom.group": "1"}
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	}
	return r
}

// oomScoreAdj says who dies first when the node runs out of memory: what asked
// for less of it.
func oomScoreAdj(pod *v1.Pod, c *v1.Container, capacity int64) int64 {
	const guaranteed, bestEffort = -997, 1000
	if p := pod.Spec.Priority; p != nil && *p >= 2_000_000_000 { // node critical
		return guaranteed
	}
	switch qos.GetPodQOS(pod) {
	case v1.PodQOSGuaranteed:
		return guaranteed
	case v1.PodQOSBestEffort:
		return bestEffort
	}
	if capacity <= 0 {
		return bestEffort - 1
	}
	adj := 1000 - 1000*c.Resources.Requests.Memory().Value()/capacity
	if adj < 1000+guaranteed {
		return 1000 + guaranteed
	}
	if adj == bestEffort {
		return adj - 1
	}
	return adj
}
