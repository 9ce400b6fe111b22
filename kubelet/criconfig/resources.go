package criconfig

import (
	"maps"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
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

// Limits are what limits a container: its own limits, and of CPU and memory, where
// it has none, the Pod's (KEP-2837). Read only: it may be the container's own map.
func Limits(pod *v1.ResourceRequirements, c *v1.ResourceRequirements) v1.ResourceList {
	out := c.Limits
	if pod == nil {
		return out
	}
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		own, whole := c.Limits[name], pod.Limits[name]
		if !own.IsZero() || whole.IsZero() {
			continue
		}
		if out = maps.Clone(out); out == nil {
			out = v1.ResourceList{}
		}
		out[name] = whole
	}
	return out
}

// ContainerResources are the limits of one container.
func ContainerResources(pod *v1.Pod, c *v1.Container, node *Node) *runtimeapi.LinuxContainerResources {
	r := linuxResources(c.Resources.Requests, Limits(pod.Spec.Resources, &c.Resources))
	r.OomScoreAdj = oomScoreAdj(pod, c, node.MemoryCapacity)
	if node.CgroupV2 {
		r.Unified = map[string]string{"memory.oom.group": "1"}
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	}
	return r
}

// oomScoreAdj says who dies first when the node runs out of memory: what asked
// for less of it. A sidecar does not die before the regular container that asked for
// least, which it serves.
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
	asked := c.Resources.Requests.Memory().Value()
	if sidecar(c) {
		least := pod.Spec.Containers[0].Resources.Requests.Memory().Value()
		for i := range pod.Spec.Containers[1:] {
			least = min(least, pod.Spec.Containers[i+1].Resources.Requests.Memory().Value())
		}
		asked = max(asked, least)
	}
	adj := 1000 - 1000*(asked+sharedMemory(pod))/capacity
	if adj < 1000+guaranteed {
		return 1000 + guaranteed
	}
	if adj == bestEffort {
		return adj - 1
	}
	return adj
}

func sidecar(c *v1.Container) bool {
	return c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
}

// sharedMemory is a container's part, in bytes, of the memory that the Pod as a whole
// requests beyond what its containers do.
func sharedMemory(pod *v1.Pod) int64 {
	if pod.Spec.Resources == nil || pod.Spec.Resources.Requests.Memory().IsZero() {
		return 0
	}
	own := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	rest := pod.Spec.Resources.Requests.Memory().Value() - own.Memory().Value()
	return rest / int64(len(pod.Spec.Containers)+len(pod.Spec.InitContainers))
}
