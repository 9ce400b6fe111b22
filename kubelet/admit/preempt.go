package admit

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/static"
)

// shortage is a resource of which a Pod asks for more than is free.
type shortage struct {
	name             v1.ResourceName
	asked, used, all int64 // in the unit of messages
}

// refusal is the node's answer to a Pod that has to go without.
func (s shortage) refusal() *pod.Refusal {
	return &pod.Refusal{
		Reason: "OutOf" + string(s.name),
		Message: fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
			s.name, s.asked, s.used, s.all),
	}
}

// need is how much of a resource is still to be freed.
type need struct {
	name   v1.ResourceName
	amount int64
}

// preempt answers a Pod that only lacks resources: who must not be refused for
// that gets them from others, and who may be is.
func preempt(p *v1.Pod, others []*v1.Pod, short []shortage) *pod.Refusal {
	r := short[0].refusal()
	if !static.Critical(p) {
		return r
	}
	needs := make([]need, len(short))
	for i, s := range short {
		needs[i] = need{s.name, s.asked - (s.all - s.used)}
	}
	chosen, left := victims(p, others, needs)
	if len(left) > 0 {
		return &pod.Refusal{Reason: "UnexpectedAdmissionError", Message: fmt.Sprintf("Unexpected error while attempting to recover from admission failure: "+
			"preemption: error finding a set of pods to preempt: no set of running pods found to reclaim resources: %s", words(left))}
	}
	r.Preempt = chosen
	return r
}

// victims are the Pods that end so that p has what it needs: of the best class
// of service as few as can be when all below it end, and then of the next one
// below. What all together cannot give is left.
func victims(p *v1.Pod, others []*v1.Pod, needs []need) (chosen []*v1.Pod, left []need) {
	classes := map[v1.PodQOSClass][]*v1.Pod{}
	for _, o := range others {
		if preemptable(p, o) {
			class := qos.GetPodQOS(o)
			classes[class] = append(classes[class], o)
		}
	}
	lower := [][]*v1.Pod{classes[v1.PodQOSBestEffort], classes[v1.PodQOSBurstable], classes[v1.PodQOSGuaranteed]}
	if left := without(needs, slices.Concat(lower...)); len(left) > 0 {
		return nil, left
	}
	for len(lower) > 0 {
		last := len(lower) - 1
		candidates := lower[last]
		lower = lower[:last]
		chosen = append(fewest(candidates, without(needs, append(slices.Concat(lower...), chosen...))), chosen...)
	}
	return chosen, nil
}

// preemptable says whether o may end for p: it is not critical, or of lower
// priority.
func preemptable(p, o *v1.Pod) bool {
	if static.Critical(p) && !static.Critical(o) {
		return true
	}
	return p.Spec.Priority != nil && o.Spec.Priority != nil && corev1helpers.PodPriority(p) > corev1helpers.PodPriority(o)
}

// fewest are Pods that free what is needed: always the one that leaves least of
// it, and of two such the one that asks for less. The pods free it together.
func fewest(pods []*v1.Pod, needs []need) (chosen []*v1.Pod) {
	for len(needs) > 0 && len(pods) > 0 {
		best := slices.MinFunc(pods, func(a, b *v1.Pod) int {
			return cmp.Or(cmp.Compare(distance(needs, a), distance(needs, b)),
				cmp.Compare(request(a, v1.ResourceMemory), request(b, v1.ResourceMemory)), cmp.Compare(request(a, v1.ResourceCPU), request(b, v1.ResourceCPU)),
				cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name))
		})
		chosen = append(chosen, best)
		needs = without(needs, []*v1.Pod{best})
		pods = slices.DeleteFunc(slices.Clone(pods), func(o *v1.Pod) bool { return o == best })
	}
	return chosen
}

// distance is how far a Pod is from freeing all that is needed: 0 if it does,
// and at most 1 for each resource, whatever its unit.
func distance(needs []need, p *v1.Pod) (sum float64) {
	for _, n := range needs {
		if rest := n.amount - request(p, n.name); rest > 0 {
			part := float64(rest) / float64(n.amount)
			sum += part * part
		}
	}
	return sum
}

// without is what is needed beyond what the Pods free.
func without(needs []need, pods []*v1.Pod) (left []need) {
	for _, n := range needs {
		for _, p := range pods {
			n.amount -= request(p, n.name)
		}
		if n.amount > 0 {
			left = append(left, n)
		}
	}
	return left
}

// request is what a Pod holds of a resource, as those that are compared with
// what is allocatable do.
func request(p *v1.Pod, name v1.ResourceName) int64 {
	if name == v1.ResourcePods {
		return 1
	}
	return amount(name, held(p)[name])
}

// held is what a Pod has or is about to have, whichever is more.
func held(p *v1.Pod) v1.ResourceList {
	return withoutClaimed(p, resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{
		UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}))
}

// words name what is needed, as in messages of Kubernetes.
func words(needs []need) string {
	var b strings.Builder
	for _, n := range needs {
		fmt.Fprintf(&b, "(res: %s, q: %d), ", n.name, n.amount)
	}
	return "[" + b.String() + "]"
}
