package evict

import (
	"cmp"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/qos"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Usage is what Pods use, by UID. A Pod that is missing is not known.
type Usage map[types.UID]*statsapi.PodStats

// Rank orders Pods by who ends first when something runs short: Pods of which
// nothing is known, those that use more than they asked for, those of lower
// priority, those that exceed what they asked for by more. dedicated says that
// images have a file system of their own.
func Rank(pods []*v1.Pod, s Signal, usage Usage, dedicated bool) []*v1.Pod {
	type candidate struct {
		pod     *v1.Pod
		known   bool
		exceeds bool
		over    int64
	}
	list := make([]candidate, len(pods))
	for i, p := range pods {
		list[i].pod = p
		st := usage[p.UID]
		if st == nil {
			continue
		}
		used, ok := measure(p, s, st, dedicated)
		list[i].known = ok
		asked := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
		request := asked[s.resource()]
		list[i].over = used - request.Value()
		list[i].exceeds = list[i].over > 0
	}
	slices.SortStableFunc(list, func(a, b candidate) int {
		if a.known != b.known {
			return first(!a.known)
		}
		// Processes are not asked for: nobody exceeds a request.
		if a.exceeds != b.exceeds && s != PIDAvailable {
			return first(a.exceeds)
		}
		if c := cmp.Compare(corev1helpers.PodPriority(a.pod), corev1helpers.PodPriority(b.pod)); c != 0 {
			return c
		}
		return cmp.Compare(b.over, a.over)
	})
	out := make([]*v1.Pod, len(list))
	for i := range list {
		out[i] = list[i].pod
	}
	return out
}

func first(yes bool) int {
	if yes {
		return -1
	}
	return 1
}

// measure is how much of what runs short a Pod uses.
func measure(p *v1.Pod, s Signal, st *statsapi.PodStats, dedicated bool) (int64, bool) {
	switch s.resource() {
	case v1.ResourceMemory:
		if st.Memory == nil || st.Memory.WorkingSetBytes == nil {
			return 0, false
		}
		return int64(*st.Memory.WorkingSetBytes), true
	case pids:
		if st.ProcessStats == nil || st.ProcessStats.ProcessCount == nil {
			return 0, false
		}
		return int64(*st.ProcessStats.ProcessCount), true
	}
	layers, rest := true, true
	if s.images() {
		rest = false
	} else if dedicated {
		layers = false
	}
	var total int64
	add := func(fs *statsapi.FsStats) {
		switch {
		case fs == nil:
		case s.resource() == inodes:
			total += value(fs.InodesUsed)
		default:
			total += value(fs.UsedBytes)
		}
	}
	for i := range st.Containers {
		if layers {
			add(st.Containers[i].Rootfs)
		}
		if rest {
			add(st.Containers[i].Logs)
		}
	}
	if rest {
		for i := range st.VolumeStats {
			if local(p, st.VolumeStats[i].Name) {
				add(&st.VolumeStats[i].FsStats)
			}
		}
	}
	return total, true
}

func value(v *uint64) int64 {
	if v == nil {
		return 0
	}
	return int64(*v)
}

// local says whether a volume is on the node's disk and goes with the Pod.
func local(p *v1.Pod, name string) bool {
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.Name == name {
			return v.ConfigMap != nil || v.DownwardAPI != nil || v.GitRepo != nil ||
				(v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault)
		}
	}
	return false
}

// sparesMemory says whether a Pod may start although memory is short: it asked
// for its memory, or says that it bears the shortage.
func sparesMemory(p *v1.Pod) bool {
	if qos.GetPodQOS(p) != v1.PodQOSBestEffort {
		return true
	}
	taint := v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
	for i := range p.Spec.Tolerations {
		if p.Spec.Tolerations[i].ToleratesTaint(klog.Background(), &taint, false) {
			return true
		}
	}
	return false
}

// active are the Pods that may be using something.
func active(pods []*v1.Pod) []*v1.Pod {
	var out []*v1.Pod
	for _, p := range pods {
		if p.Status.Phase != v1.PodFailed && p.Status.Phase != v1.PodSucceeded {
			out = append(out, p)
		}
	}
	return out
}

// storage is what a container holds on disk: its own layer and its logs.
func storage(c *statsapi.ContainerStats) *resource.Quantity {
	if c.Rootfs == nil || c.Rootfs.UsedBytes == nil || c.Logs == nil || c.Logs.UsedBytes == nil {
		return nil
	}
	return resource.NewQuantity(int64(*c.Rootfs.UsedBytes+*c.Logs.UsedBytes), resource.BinarySI)
}
