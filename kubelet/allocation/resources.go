// Package allocation keeps what the node has promised to each of its Pods.
//
// A Pod's spec says what it should have. What the node gave it, at admission or
// by a resize since, is its allocation; what is in force on the machine is what
// was actuated. The three differ while a resize waits for room or is under way.
// The last two are kept on disk (Store), so that they outlive the process.
//
// What waits for room is tried again in a fixed order (Sort). The package does
// no more than that: who asks, when, and what then happens is the lifecycle's.
package allocation

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/peapod/peapod/kubelet/criconfig"
)

// Resources are those of a Pod that can change while it runs.
type Resources struct {
	// Pod is what the Pod as a whole has, nil for nothing.
	Pod *v1.ResourceRequirements `json:"pod,omitempty"`
	// Containers are the init and the regular ones, by name.
	Containers map[string]v1.ResourceRequirements `json:"containers,omitempty"`
	// Limits are what limits those containers, by name, that the Pod as a whole
	// limits where they have no limit themselves.
	Limits map[string]v1.ResourceList `json:"limits,omitempty"`
}

// Of are the resources that the Pod's spec asks for. They share nothing with it.
func Of(pod *v1.Pod) Resources {
	r := Resources{Pod: pod.Spec.Resources.DeepCopy(), Containers: map[string]v1.ResourceRequirements{}}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			own := list[i].Resources.DeepCopy()
			r.Containers[list[i].Name] = *own
			if limits := criconfig.Limits(r.Pod, own); !apiequality.Semantic.DeepEqual(limits, own.Limits) {
				r.limit(list[i].Name, limits)
			}
		}
	}
	return r
}

// Equal says whether both are the same amounts, however they are written.
func (r Resources) Equal(o Resources) bool { return apiequality.Semantic.DeepEqual(r, o) }

func (r *Resources) limit(container string, limits v1.ResourceList) {
	if r.Limits = maps.Clone(r.Limits); r.Limits == nil {
		r.Limits = map[string]v1.ResourceList{}
	}
	r.Limits[container] = limits.DeepCopy()
}

// Of are the amounts that hold for a container: its own, and the Pod's limits where
// it has none. Read only.
func (r Resources) Of(container string) v1.ResourceRequirements {
	out := r.Containers[container]
	if limits, ok := r.Limits[container]; ok {
		out.Limits = limits
	}
	return out
}

// Same says whether the same amounts hold for a container in both.
func (r Resources) Same(o Resources, container string) bool {
	return apiequality.Semantic.DeepEqual(r.Of(container), o.Of(container))
}

// Apply returns the Pod with these resources in its spec. The Pod itself stays
// as it is, and shares with the result what is not a container.
func (r Resources) Apply(pod *v1.Pod) *v1.Pod {
	out := *pod
	out.Spec.Resources = r.Pod
	apply := func(list []v1.Container) []v1.Container {
		if list == nil {
			return nil
		}
		with := make([]v1.Container, len(list))
		for i := range list {
			with[i] = list[i]
			if have, ok := r.Containers[list[i].Name]; ok {
				with[i].Resources = have
			}
		}
		return with
	}
	out.Spec.InitContainers, out.Spec.Containers = apply(pod.Spec.InitContainers), apply(pod.Spec.Containers)
	return &out
}

// With returns the resources with those of one container replaced by what it has in
// o.
func (r Resources) With(container string, o Resources) Resources {
	r.Containers, r.Limits = maps.Clone(r.Containers), maps.Clone(r.Limits)
	r.Containers[container] = o.Containers[container]
	delete(r.Limits, container)
	if limits, ok := o.Limits[container]; ok {
		r.limit(container, limits)
	}
	return r
}

// Restarts says whether a running container must be started anew to get from
// one amount to another, by its resize policies. An ordinary init container is
// never started anew: that would be initializing again.
func Restarts(c *v1.Container, sidecarOrRegular bool, from, to v1.ResourceRequirements) bool {
	if !sidecarOrRegular {
		return false
	}
	for _, p := range c.ResizePolicy {
		if p.RestartPolicy == v1.RestartContainer &&
			(differs(p.ResourceName, from.Requests, to.Requests) || differs(p.ResourceName, from.Limits, to.Limits)) {
			return true
		}
	}
	return false
}

func differs(name v1.ResourceName, a, b v1.ResourceList) bool {
	x, inA := a[name]
	y, inB := b[name]
	return inA != inB || x.Cmp(y) != 0
}

// Shrinks says whether any limit, or the request of CPU, goes down. What had no
// limit shrinks when it gets one.
func Shrinks(from, to v1.ResourceRequirements) bool {
	for _, name := range []v1.ResourceName{v1.ResourceCPU, v1.ResourceMemory} {
		old, had := from.Limits[name]
		if q, has := to.Limits[name]; has && (!had || q.Cmp(old) < 0) {
			return true
		}
	}
	return to.Requests.Cpu().Cmp(*from.Requests.Cpu()) < 0
}

// grows says whether the Pod asks for more CPU or memory than is allocated.
func grows(pod *v1.Pod, allocated Resources) bool {
	want := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	have := resourcehelper.PodRequests(allocated.Apply(pod), resourcehelper.PodResourcesOptions{})
	return want.Cpu().Cmp(*have.Cpu()) > 0 || want.Memory().Cmp(*have.Memory()) > 0
}
