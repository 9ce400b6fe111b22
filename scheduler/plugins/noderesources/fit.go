// Package noderesources puts Pods where their requests fit, and prefers nodes with room and balance.
package noderesources

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"github.com/peapod/peapod/scheduler/framework"
)

// Fit is the rule that requests must fit into what is left of allocatable.
type Fit struct{}

var (
	_ framework.Filter = Fit{}
	_ framework.Score  = Fit{}
	_ framework.Waker  = Fit{}
)

// Name implements framework.Plugin.
func (Fit) Name() string { return "NodeResourcesFit" }

// Prepare implements framework.Filter.
func (Fit) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	extended := slices.Sorted(maps.Keys(pod.Requests.Extended))
	return func(n *framework.Node) []framework.Reason {
		var out []framework.Reason
		// short adds a reason if request does not fit. Where even the empty node is too small nothing will help.
		short := func(what string, request, used, allocatable int64) {
			if request == 0 || request <= allocatable-used {
				return
			}
			verdict := framework.Busy
			if request > allocatable {
				verdict = framework.Wrong
			}
			out = append(out, framework.Reason{Verdict: verdict, Message: what})
		}
		if n.Count+1 > n.MaxPods {
			out = append(out, framework.Reason{Verdict: framework.Busy, Message: "Too many pods"})
		}
		short("Insufficient cpu", pod.Requests.MilliCPU, n.Requested.MilliCPU, n.Allocatable.MilliCPU)
		short("Insufficient memory", pod.Requests.Memory, n.Requested.Memory, n.Allocatable.Memory)
		short("Insufficient ephemeral-storage", pod.Requests.EphemeralStorage, n.Requested.EphemeralStorage, n.Allocatable.EphemeralStorage)
		for _, name := range extended {
			// A node without the resource may have devices of a class that stands for it.
			if n.Allocatable.Extended[name] == 0 && cluster.Devices.ClassOf(name) != nil {
				continue
			}
			short("Insufficient "+string(name), pod.Requests.Extended[name], n.Requested.Extended[name], n.Allocatable.Extended[name])
		}
		return out
	}, framework.Reason{}
}

// Helps implements framework.Waker: a Pod left or needs less of what the Pod requests, or a node that could hold the Pod were it
// empty appeared or has more of that to give, or a class stands for a resource of the Pod now.
func (Fit) Helps(pod *framework.Pod, e framework.Event) bool {
	switch {
	case e.PodLeft():
		return true
	case e.OldPod != nil && e.NewPod != nil:
		return pod.Requests.AnyLess(e.NewRequests, e.OldRequests)
	}
	if e.Devices != nil {
		return stands(e.Devices.NewClass, e.Devices.OldClass, pod)
	}
	if e.NewNode == nil {
		return false
	}
	now := framework.ResourcesOf(e.NewNode.Status.Allocatable)
	if !ofNode(pod.Requests, now).Within(now) || e.NewNode.Status.Allocatable.Pods().IsZero() {
		return false
	}
	return e.NodeAppearedOr(func(old, new *corev1.Node) bool {
		return pod.Requests.AnyLess(framework.ResourcesOf(old.Status.Allocatable), now) ||
			old.Status.Allocatable.Pods().Cmp(*new.Status.Allocatable.Pods()) < 0
	})
}

// ofNode is what of the requests a node must have itself: for extended resources that it does not have at all a class may stand.
func ofNode(requests, now framework.Resources) framework.Resources {
	if len(requests.Extended) > 0 {
		requests.Extended = maps.Clone(requests.Extended)
		maps.DeleteFunc(requests.Extended, func(name corev1.ResourceName, _ int64) bool {
			return now.Extended[name] == 0 && framework.MayBeDevice(name)
		})
	}
	return requests
}

// stands says whether the class, which may be nil, stands for an extended resource of the Pod as it, being old, did not before.
func stands(now, old *resourcev1.DeviceClass, pod *framework.Pod) bool {
	if now == nil {
		return false
	}
	requested := func(name string) bool { return pod.Requests.Extended[corev1.ResourceName(name)] > 0 }
	if old == nil && requested(resourcev1.ResourceDeviceClassPrefix+now.Name) {
		return true
	}
	name := now.Spec.ExtendedResourceName
	return name != nil && (old == nil || old.Spec.ExtendedResourceName == nil || *old.Spec.ExtendedResourceName != *name) && requested(*name)
}

// PrepareScore implements framework.Score: the share of cpu and memory that would be left (LeastAllocated).
func (Fit) PrepareScore(pod *framework.Pod, _ *framework.Cluster, _ []*framework.Node) func(*framework.Node) int64 {
	return func(n *framework.Node) int64 {
		var sum, resources int64
		for _, r := range [...]struct{ used, allocatable int64 }{
			{n.Spread.MilliCPU + pod.Spread.MilliCPU, n.Allocatable.MilliCPU},
			{n.Spread.Memory + pod.Spread.Memory, n.Allocatable.Memory},
		} {
			if r.allocatable == 0 {
				continue
			}
			resources++
			if r.used <= r.allocatable {
				sum += (r.allocatable - r.used) * framework.MaxScore / r.allocatable
			}
		}
		if resources == 0 {
			return 0
		}
		return sum / resources
	}
}

// Weight implements framework.Score.
func (Fit) Weight() int64 { return 1 }
