package framework

import (
	"maps"
	"math"

	corev1 "k8s.io/api/core/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/component-helpers/resource"
)

// Resources are amounts in the smallest unit the scheduler counts: thousandths of a core, bytes, or pieces.
type Resources struct {
	MilliCPU, Memory, EphemeralStorage int64
	// Extended are all others: huge pages and extended resources.
	Extended map[corev1.ResourceName]int64
}

// ResourcesOf converts a list.
func ResourcesOf(l corev1.ResourceList) Resources {
	var r Resources
	for name, q := range l {
		switch name {
		case corev1.ResourceCPU:
			r.MilliCPU = q.MilliValue()
		case corev1.ResourceMemory:
			r.Memory = q.Value()
		case corev1.ResourceEphemeralStorage:
			r.EphemeralStorage = q.Value()
		case corev1.ResourcePods:
		default:
			if r.Extended == nil {
				r.Extended = map[corev1.ResourceName]int64{}
			}
			r.Extended[name] = q.Value()
		}
	}
	return r
}

// Add adds o, sign times (1 or -1).
func (r *Resources) Add(o Resources, sign int64) {
	r.MilliCPU += sign * o.MilliCPU
	r.Memory += sign * o.Memory
	r.EphemeralStorage += sign * o.EphemeralStorage
	for name, v := range o.Extended {
		if r.Extended == nil {
			r.Extended = map[corev1.ResourceName]int64{}
		}
		r.Extended[name] += sign * v
	}
}

// Within says whether all of r is there in room.
func (r Resources) Within(room Resources) bool {
	for name, v := range r.Extended {
		if v > room.Extended[name] {
			return false
		}
	}
	return r.MilliCPU <= room.MilliCPU && r.Memory <= room.Memory && r.EphemeralStorage <= room.EphemeralStorage
}

// AnyLess says whether a has less than b of anything that is in r.
func (r Resources) AnyLess(a, b Resources) bool {
	for name, v := range r.Extended {
		if v > 0 && a.Extended[name] < b.Extended[name] {
			return true
		}
	}
	return r.MilliCPU > 0 && a.MilliCPU < b.MilliCPU || r.Memory > 0 && a.Memory < b.Memory ||
		r.EphemeralStorage > 0 && a.EphemeralStorage < b.EphemeralStorage
}

// spreadRequests are what a container without a request counts as when nodes are compared, so that Pods without requests spread
// too.
var spreadRequests = corev1.ResourceList{
	corev1.ResourceCPU:    *apiresource.NewMilliQuantity(100, apiresource.DecimalSI),
	corev1.ResourceMemory: *apiresource.NewQuantity(200<<20, apiresource.DecimalSI),
}

// Pod is a Pod with what the scheduler needs to know of it, worked out once.
type Pod struct {
	*corev1.Pod
	// Requests is what it takes of a node: containers, init containers, sidecars and overhead.
	Requests Resources
	// Spread is Requests with a small amount in place of none, for comparing nodes.
	Spread Resources
	// Ports are the host ports it takes.
	Ports []HostPort
	// Claims are the persistent volume claims it uses.
	Claims []Claim
	// Terms are its affinity to other Pods, nil for none.
	Terms *Terms
	// SpreadTerms are the Pods that its topology spread constraints count, one for each.
	SpreadTerms []Term
}

// NewPod works out what the scheduler needs of p, which must not change afterwards.
func NewPod(p *corev1.Pod) *Pod {
	// A status that says nothing is not gone through, which would cost three times as much with the same outcome.
	options := resource.PodResourcesOptions{
		UseStatusResources: statusCounts(p) || resource.IsPodResizeInfeasible(p), InPlacePodLevelResourcesVerticalScalingEnabled: true,
	}
	requests := ResourcesOf(resource.PodRequests(p, options))
	spread := requests
	if !allRequest(p) {
		options.NonMissingContainerRequests = spreadRequests
		spread = ResourcesOf(resource.PodRequests(p, options))
	}
	return &Pod{Pod: p, Requests: requests, Spread: spread, Ports: hostPorts(p), Claims: claimsOf(p), Terms: termsOf(p), SpreadTerms: spreadTermsOf(p)}
}

// Newer is NewPod for what p, which may be nil, has become. What p needs is worked out anew only where it can have changed, which a
// binding, for one, leaves as it is.
func (p *Pod) Newer(now *corev1.Pod) *Pod {
	if p == nil || p.UID != now.UID || p.Generation == 0 || p.Generation != now.Generation || statusCounts(p.Pod) || statusCounts(now) ||
		(p.Terms != nil || p.SpreadTerms != nil) && !maps.Equal(p.Labels, now.Labels) {
		return NewPod(now)
	}
	same := *p
	same.Pod = now
	return &same
}

// statusCounts says whether the Pod's status may say what the Pod takes of its node, as it does once it runs.
func statusCounts(p *corev1.Pod) bool {
	s := &p.Status
	return len(s.ContainerStatuses)+len(s.InitContainerStatuses) > 0 || s.Resources != nil || s.AllocatedResources != nil
}

// allRequest says whether every container requests both of spreadRequests.
func allRequest(p *corev1.Pod) bool {
	for _, list := range [][]corev1.Container{p.Spec.InitContainers, p.Spec.Containers} {
		for i := range list {
			for name := range spreadRequests {
				if _, ok := list[i].Resources.Requests[name]; !ok {
					return false
				}
			}
		}
	}
	return true
}

// Priority is the Pod's, zero where none is set.
func (p *Pod) Priority() int32 {
	if p.Spec.Priority == nil {
		return 0
	}
	return *p.Spec.Priority
}

// HostPort is a port of a node that a Pod takes.
type HostPort struct {
	IP       string
	Protocol corev1.Protocol
	Port     int32
}

// anyIP stands for all addresses of a node.
const anyIP = "0.0.0.0"

func hostPorts(p *corev1.Pod) []HostPort {
	var out []HostPort
	collect := func(containers []corev1.Container) {
		for i := range containers {
			for _, port := range containers[i].Ports {
				if port.HostPort <= 0 || port.HostPort > math.MaxUint16 {
					continue
				}
				h := HostPort{IP: port.HostIP, Protocol: port.Protocol, Port: port.HostPort}
				if h.IP == "" || h.IP == "::" {
					h.IP = anyIP
				}
				if h.Protocol == "" {
					h.Protocol = corev1.ProtocolTCP
				}
				out = append(out, h)
			}
		}
	}
	collect(p.Spec.Containers)
	for i := range p.Spec.InitContainers {
		c := &p.Spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			collect(p.Spec.InitContainers[i : i+1])
		}
	}
	return out
}

// Conflicts says whether two Pods cannot have these ports on one node.
func (h HostPort) Conflicts(o HostPort) bool {
	return h.Port == o.Port && h.Protocol == o.Protocol && (h.IP == o.IP || h.IP == anyIP || o.IP == anyIP)
}
