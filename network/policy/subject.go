package policy

import (
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// subject is what rules must know of a Pod that has addresses of its own.
type subject struct {
	types.NamespacedName
	uid     types.UID
	since   time.Time
	labels  labels.Set
	addrs   []netip.Addr
	local   bool
	ports   []namedPort
	adopted bool // addrs are those that this node gave it, and the API need not show them yet
}

// namedPort is a port that policies may call by its name.
type namedPort struct {
	name     string
	protocol uint8
	number   uint16
}

var protocolNumbers = map[corev1.Protocol]uint8{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}

// subjectOf returns nil for Pods that policies do not apply to: those on the network of their host, those without an address
// and those that have ended, whose address may be another's.
func subjectOf(pod *corev1.Pod, node string) *subject {
	if pod.Spec.HostNetwork || pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		return nil
	}
	s := &subject{
		NamespacedName: types.NamespacedName{Namespace: pod.Namespace, Name: pod.Name}, uid: pod.UID,
		since: pod.CreationTimestamp.Time, labels: pod.Labels, local: pod.Spec.NodeName == node, ports: namedPorts(&pod.Spec),
	}
	for _, ip := range pod.Status.PodIPs {
		if a, err := netip.ParseAddr(ip.IP); err == nil {
			s.addrs = append(s.addrs, a.Unmap())
		}
	}
	if len(s.addrs) == 0 {
		return nil
	}
	return s
}

// namedPorts are the ports of containers that run beside each other: the first of a name and protocol counts.
func namedPorts(spec *corev1.PodSpec) []namedPort {
	var out []namedPort
	add := func(c *corev1.Container) {
		for _, p := range c.Ports {
			protocol, known := protocolNumbers[p.Protocol]
			if p.Name == "" || !known {
				continue
			}
			same := func(o namedPort) bool { return o.name == p.Name && o.protocol == protocol }
			if !slices.ContainsFunc(out, same) {
				out = append(out, namedPort{p.Name, protocol, uint16(p.ContainerPort)})
			}
		}
	}
	for i := range spec.Containers {
		add(&spec.Containers[i])
	}
	for i := range spec.InitContainers {
		c := &spec.InitContainers[i]
		if c.RestartPolicy != nil && *c.RestartPolicy == corev1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	return out
}

// newer says whether s has the address that both claim: of two Pods the one that was made later, since addresses are given again
// only when their Pod is gone.
func (s *subject) newer(o *subject) bool {
	if s.adopted != o.adopted {
		return s.adopted
	}
	if order := s.since.Compare(o.since); order != 0 {
		return order > 0
	}
	return s.uid > o.uid
}
