// Package noderesources puts Pods where their requests fit, and prefers nodes with room and balance.
package noderesources

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"

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
func (Fit) Prepare(pod *framework.Pod, _ *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
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
			short("Insufficient "+string(name), pod.Requests.Extended[name], n.Requested.Extended[name], n.Allocatable.Extended[name])
		}
		return out
	}, framework.Reason{}
}

// Helps implements framework.Waker: a Pod left or needs less of what the Pod requests, or a node that could hold the Pod were it
// empty appeared or has more of that to give.
func (Fit) Helps(pod *framework.Pod, e framework.Event) bool {
	switch {
	case e.PodLeft():
		return true
	case e.OldPod != nil && e.NewPod != nil:
		return pod.Requests.AnyLess(e.NewRequests, e.OldRequests)
	}
	if e.NewNode == nil {
		return false
	}
	now := framework.ResourcesOf(e.NewNode.Status.Allocatable)
	if !pod.Requests.Within(now) || e.NewNode.Status.Allocatable.Pods().IsZero() {
		return false
	}
	return e.NodeAppearedOr(func(old, new *corev1.Node) bool {
		return pod.Requests.AnyLess(framework.ResourcesOf(old.Status.Allocatable), now) ||
			old.Status.Allocatable.Pods().Cmp(*new.Status.Allocatable.Pods()) < 0
	})
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
