package evict

import (
	"fmt"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// reason is the status.reason of evicted Pods and of their events.
const reason = "Evicted"

// message says why a Pod ends for a shortage, and which of its containers used
// more than they asked for; the annotations go to the event.
func message(p *v1.Pod, t Threshold, o Observations, st *statsapi.PodStats) (string, map[string]string) {
	what := t.Signal.resource()
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %v. ", what)
	fmt.Fprintf(&b, "Threshold quantity: %v, available: %v. ", t.quantity(o[t.Signal]), o.available(t.Signal))
	var names, usages []string
	if st != nil {
		for i := range st.Containers {
			c := &st.Containers[i]
			spec := container(p, c.Name)
			used := containerUsage(c, what)
			if spec == nil || used == nil {
				continue
			}
			request := spec.Resources.Requests[what]
			if used.Cmp(request) > 0 {
				fmt.Fprintf(&b, "Container %s was using %s, request is %s, has larger consumption of %v. ", c.Name, used, request.String(), what)
				names, usages = append(names, c.Name), append(usages, used.String())
			}
		}
	}
	return b.String(), map[string]string{
		"offending_containers":       strings.Join(names, ","),
		"offending_containers_usage": strings.Join(usages, ","),
		"starved_resource":           string(what),
	}
}

func containerUsage(c *statsapi.ContainerStats, what v1.ResourceName) *resource.Quantity {
	switch {
	case what == v1.ResourceEphemeralStorage:
		return storage(c)
	case what == v1.ResourceMemory && c.Memory != nil && c.Memory.WorkingSetBytes != nil:
		return resource.NewQuantity(int64(*c.Memory.WorkingSetBytes), resource.BinarySI)
	}
	return nil
}

func container(p *v1.Pod, name string) *v1.Container {
	for _, list := range [][]v1.Container{p.Spec.Containers, p.Spec.InitContainers} {
		for i := range list {
			if list[i].Name == name {
				return &list[i]
			}
		}
	}
	return nil
}
