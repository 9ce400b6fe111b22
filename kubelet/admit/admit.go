// Package admit decides whether a node takes a Pod that is bound to it: the
// scheduler's answer is checked against what is true here and now.
package admit

import (
	"context"
	"fmt"
	"sort"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/kubelet/features"
	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/static"
)

// Node reads this node's object, with the newest labels and allocatable.
type Node func() (*v1.Node, error)

// Admitter checks Pods against a node; it implements pod.Admitter.
type Admitter struct {
	node    Node
	sysctls *Sysctls
	plugged func(v1.ResourceName) bool
}

// New makes an Admitter. Without sysctls, Pods may have the safe ones. plugged, if not nil, says of which resources device plugins have
// decided who gets them.
func New(node Node, sysctls *Sysctls, plugged func(v1.ResourceName) bool) *Admitter {
	if sysctls == nil {
		sysctls, _ = NewSysctls(nil) // fails by what it is given
	}
	if plugged == nil {
		plugged = func(v1.ResourceName) bool { return false }
	}
	return &Admitter{node: node, sysctls: sysctls, plugged: plugged}
}

// Behind asks gate about new Pods, unless it is nil, and then next.
func Behind(gate pod.Gate, next pod.Admitter) pod.Admitter {
	if gate == nil {
		return next
	}
	return &behind{next, gate}
}

type behind struct {
	pod.Admitter
	gate pod.Gate
}

func (b *behind) Admit(ctx context.Context, p *v1.Pod, others []*v1.Pod) *pod.Refusal {
	if r := b.gate.Admit(ctx, p, others); r != nil {
		return r
	}
	return b.Admitter.Admit(ctx, p, others)
}

// Admit returns why the node cannot take p beside others, nil if it can. Where
// only resources lack and p must not go without, the answer names who has to.
func (a *Admitter) Admit(ctx context.Context, p *v1.Pod, others []*v1.Pod) *pod.Refusal {
	node, err := a.node()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot get node info", "pod", klog.KObj(p))
		return &pod.Refusal{Reason: "InvalidNodeInfo", Message: "Kubelet cannot get node info."}
	}
	if r := system(p, node); r != nil {
		return r
	}
	if r := a.sysctls.refuse(p); r != nil {
		return r
	}
	short := a.lacks(p, others, node)
	if len(short) > 0 && !static.Critical(p) {
		return short[0].refusal()
	}
	if r := suits(ctx, p, others, node); r != nil {
		return r
	}
	if r := unsupported(p); r != nil {
		return r
	}
	if len(short) > 0 {
		return preempt(p, others, short)
	}
	return nil
}

// suits checks what no room on the node would change.
func suits(ctx context.Context, p *v1.Pod, others []*v1.Pod, node *v1.Node) *pod.Refusal {
	match, err := nodeaffinity.GetRequiredNodeAffinity(p).Match(node)
	if err != nil || !match {
		return &pod.Refusal{Reason: "NodeAffinity", Message: "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"}
	}
	if p.Spec.NodeName != node.Name {
		return &pod.Refusal{Reason: "NodeName", Message: "Predicate NodeName failed: node(s) didn't match the requested node name"}
	}
	if conflict(p, others) {
		return &pod.Refusal{Reason: "NodePorts", Message: "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"}
	}
	// Of the taints only NoExecute is the node's business, and not even that where a file of the node says what runs.
	if static.Is(p) {
		return nil
	}
	if _, bad := corev1helpers.FindMatchingUntoleratedTaint(klog.FromContext(ctx), node.Spec.Taints, p.Spec.Tolerations, func(t *v1.Taint) bool {
		return t.Effect == v1.TaintEffectNoExecute
	}, false); bad {
		return &pod.Refusal{Reason: "TaintToleration", Message: "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"}
	}
	return nil
}

// unsupported is a refusal where this kubelet lacks a feature that the Pod needs.
func unsupported(p *v1.Pod) *pod.Refusal {
	const reason = "PodFeatureUnsupported"
	missing, err := features.Missing(p)
	if err != nil {
		return &pod.Refusal{Reason: reason, Message: fmt.Sprintf("Failed to infer pod's feature requirements: %v", err)}
	}
	if len(missing) > 0 {
		return &pod.Refusal{Reason: reason, Message: "Pod requires node features that are not available: " + strings.Join(missing, ", ")}
	}
	return nil
}

// Resize returns why p, which is here already, cannot have what its spec says
// beside others, nil if it can.
func (a *Admitter) Resize(ctx context.Context, p *v1.Pod, others []*v1.Pod) *pod.Refusal {
	node, err := a.node()
	if err != nil {
		klog.FromContext(ctx).Error(err, "Cannot get node info", "pod", klog.KObj(p))
		return &pod.Refusal{Reason: v1.PodReasonDeferred, Message: "Kubelet cannot get node info."}
	}
	asked := resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{})
	for _, name := range []v1.ResourceName{v1.ResourceMemory, v1.ResourceCPU} {
		q, have := asked[name], node.Status.Allocatable[name]
		if q.Cmp(have) > 0 {
			return &pod.Refusal{Reason: v1.PodReasonInfeasible, Message: fmt.Sprintf("Node didn't have enough capacity: %s, requested: %d, capacity: %d",
				name, amount(name, q), amount(name, have))}
		}
	}
	if short := a.lacks(p, others, node); len(short) > 0 {
		return &pod.Refusal{Reason: v1.PodReasonDeferred, Message: short[0].refusal().Message}
	}
	return nil
}

func system(p *v1.Pod, node *v1.Node) *pod.Refusal {
	if p.Spec.OS != nil && p.Spec.OS.Name != v1.Linux {
		return &pod.Refusal{Reason: "PodOSNotSupported", Message: "Failed to admit pod as the OS field doesn't match node OS"}
	}
	if want, ok := p.Spec.NodeSelector[v1.LabelOSStable]; ok && want != node.Labels[v1.LabelOSStable] {
		return &pod.Refusal{Reason: "PodOSSelectorNodeLabelDoesNotMatch", Message: "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"}
	}
	return nil
}

// lacks checks the resources that Pods ask for against what is allocatable. The
// others take what they have or are about to have, whichever is more: while a
// Pod shrinks, its room is not free before it has shrunk.
func (a *Admitter) lacks(p *v1.Pod, others []*v1.Pod, node *v1.Node) (short []shortage) {
	allocatable := node.Status.Allocatable
	if max, ok := allocatable[v1.ResourcePods]; ok && int64(len(others))+1 > max.Value() {
		short = append(short, shortage{v1.ResourcePods, 1, int64(len(others)), max.Value()})
	}
	asked := withoutClaimed(p, resourcehelper.PodRequests(p, resourcehelper.PodResourcesOptions{}))
	used := map[v1.ResourceName]resource.Quantity{}
	for _, o := range others {
		for name, q := range held(o) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	names := make([]string, 0, len(asked))
	for name := range asked {
		names = append(names, string(name))
	}
	sort.Strings(names)
	for _, n := range names {
		name := v1.ResourceName(n)
		q, have := asked[name], allocatable[name]
		if q.IsZero() {
			continue
		}
		if _, known := allocatable[name]; !known && !native(n) {
			continue // an extended resource that nobody provides here any more
		}
		if !native(n) && a.plugged(name) {
			continue
		}
		before := used[name]
		total := before.DeepCopy()
		total.Add(q)
		if total.Cmp(have) > 0 {
			short = append(short, shortage{name, amount(name, q), amount(name, before), amount(name, have)})
		}
	}
	return short
}

// withoutClaimed drops, from what a Pod asks for, the resources that it has as
// devices of a claim (spec.extendedResourceName of a DeviceClass, or the name
// that is made of a class'): nothing that the node counts is taken for them.
func withoutClaimed(p *v1.Pod, asked v1.ResourceList) v1.ResourceList {
	if s := p.Status.ExtendedResourceClaimStatus; s != nil {
		for _, m := range s.RequestMappings {
			delete(asked, v1.ResourceName(m.ResourceName))
		}
	}
	return asked
}

// amount is a quantity in the unit of messages: thousandths of CPU, else whole.
func amount(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

func native(name string) bool {
	return !strings.Contains(name, "/") || strings.Contains(name, "kubernetes.io/")
}

// conflict says whether a host port of the Pod is taken.
func conflict(p *v1.Pod, others []*v1.Pod) bool {
	mine := hostPorts(p)
	for _, o := range others {
		for _, b := range hostPorts(o) {
			for _, a := range mine {
				anyIP := a.ip == "" || a.ip == "0.0.0.0" || a.ip == "::" || b.ip == "" || b.ip == "0.0.0.0" || b.ip == "::"
				if a.port == b.port && a.proto == b.proto && (anyIP || a.ip == b.ip) {
					return true
				}
			}
		}
	}
	return false
}

type hostPort struct {
	ip    string
	port  int32
	proto v1.Protocol
}

func hostPorts(p *v1.Pod) []hostPort {
	var ports []hostPort
	add := func(c *v1.Container) {
		for _, cp := range c.Ports {
			if cp.HostPort > 0 {
				proto := cp.Protocol
				if proto == "" {
					proto = v1.ProtocolTCP
				}
				ports = append(ports, hostPort{cp.HostIP, cp.HostPort, proto})
			}
		}
	}
	for i := range p.Spec.InitContainers {
		if rp := p.Spec.InitContainers[i].RestartPolicy; rp != nil && *rp == v1.ContainerRestartPolicyAlways {
			add(&p.Spec.InitContainers[i])
		}
	}
	for i := range p.Spec.Containers {
		add(&p.Spec.Containers[i])
	}
	return ports
}
