package evict

import (
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// limited says whether a Pod has any limit of local storage.
func limited(p *v1.Pod) bool {
	for i := range p.Spec.Volumes {
		if e := p.Spec.Volumes[i].EmptyDir; e != nil && e.SizeLimit != nil && e.SizeLimit.Sign() == 1 {
			return true
		}
	}
	for _, list := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if q, ok := list[i].Resources.Limits[v1.ResourceEphemeralStorage]; ok && !q.IsZero() {
				return true
			}
		}
	}
	return false
}

// Exceeded says which limit of local storage a Pod exceeds, as metrics name it,
// and as the message of its eviction; empty if none.
func Exceeded(p *v1.Pod, st *statsapi.PodStats) (limit, message string) {
	volumes := map[string]*resource.Quantity{}
	for i := range st.VolumeStats {
		if v := &st.VolumeStats[i]; v.UsedBytes != nil {
			volumes[v.Name] = resource.NewQuantity(int64(*v.UsedBytes), resource.BinarySI)
		}
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() != 1 {
			continue
		}
		if used := volumes[v.Name]; used != nil && used.Cmp(*v.EmptyDir.SizeLimit) > 0 {
			return "emptydirfs.limit", fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	limits := resourcehelper.PodLimits(p, resourcehelper.PodResourcesOptions{})
	if limit, ok := limits[v1.ResourceEphemeralStorage]; ok && !limit.IsZero() {
		if total(p, st, volumes).Cmp(limit) > 0 {
			return "ephemeralpodfs.limit", fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", limit.String())
		}
	}
	for i := range st.Containers {
		c := &st.Containers[i]
		spec := container(p, c.Name)
		if spec == nil {
			continue
		}
		limit, ok := spec.Resources.Limits[v1.ResourceEphemeralStorage]
		if used := storage(c); ok && !limit.IsZero() && used != nil && used.Cmp(limit) > 0 {
			return "ephemeralcontainerfs.limit", fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, limit.String())
		}
	}
	return "", ""
}

func total(p *v1.Pod, st *statsapi.PodStats, volumes map[string]*resource.Quantity) *resource.Quantity {
	sum := resource.NewQuantity(0, resource.BinarySI)
	for i := range st.Containers {
		if used := storage(&st.Containers[i]); used != nil {
			sum.Add(*used)
		}
	}
	for name, used := range volumes {
		if local(p, name) {
			sum.Add(*used)
		}
	}
	return sum
}
