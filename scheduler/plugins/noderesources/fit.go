// Package noderesources puts Pods where their requests fit, and prefers nodes with room and balance.
package noderesources

import (
	"maps"
	"slices"
	"strings"

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
		short("Too many pods", 1, int64(len(n.Pods)), n.MaxPods)
		short("Insufficient cpu", pod.Requests.MilliCPU, n.Requested.MilliCPU, n.Allocatable.MilliCPU)
		short("Insufficient memory", pod.Requests.Memory, n.Requested.Memory, n.Allocatable.Memory)
		short("Insufficient ephemeral-storage", pod.Requests.EphemeralStorage, n.Requested.EphemeralStorage, n.Allocatable.EphemeralStorage)
		for _, name := range extended {
			short("Insufficient "+string(name), pod.Requests.Extended[name], n.Requested.Extended[name], n.Allocatable.Extended[name])
		}
		return out
	}, framework.Reason{}
}

// Helps implements framework.Waker: a Pod left, or a node has more to give than it had.
func (Fit) Helps(pod *framework.Pod, e framework.Event) bool {
	if e.PodLeft() {
		return true
	}
	return e.NodeAppearedOr(func(old, new *corev1.Node) bool {
		for name, q := range new.Status.Allocatable {
			was := old.Status.Allocatable[name]
			if q.Cmp(was) > 0 {
				return true
			}
		}
		return false
	})
}

// PrepareScore implements framework.Score: the share of cpu and memory that would be left (LeastAllocated).
func (Fit) PrepareScore(pod *framework.Pod, _ *framework.Cluster) func(*framework.Node) int64 {
	return func(n *framework.Node) int64 {
		return (left(n.Spread.MilliCPU+pod.Spread.MilliCPU, n.Allocatable.MilliCPU) +
			left(n.Spread.Memory+pod.Spread.Memory, n.Allocatable.Memory)) / 2
	}
}

func left(used, allocatable int64) int64 {
	if allocatable == 0 || used > allocatable {
		return 0
	}
	return (allocatable - used) * framework.MaxScore / allocatable
}

// Weight implements framework.Score.
func (Fit) Weight() int64 { return 1 }

// Scaling implements framework.Score.
func (Fit) Scaling() framework.Scaling { return framework.Absolute }

// Balanced prefers nodes whose shares of cpu and memory in use would be alike.
type Balanced struct{}

var _ framework.Score = Balanced{}

// Name implements framework.Plugin.
func (Balanced) Name() string { return "NodeResourcesBalancedAllocation" }

// PrepareScore implements framework.Score.
func (Balanced) PrepareScore(pod *framework.Pod, _ *framework.Cluster) func(*framework.Node) int64 {
	if pod.Requests.MilliCPU == 0 && pod.Requests.Memory == 0 {
		return nil
	}
	return func(n *framework.Node) int64 {
		cpu := share(n.Requested.MilliCPU+pod.Requests.MilliCPU, n.Allocatable.MilliCPU)
		memory := share(n.Requested.Memory+pod.Requests.Memory, n.Allocatable.Memory)
		difference := cpu - memory
		if difference < 0 {
			difference = -difference
		}
		// The standard deviation of two values is half their difference.
		return int64((1 - difference/2) * framework.MaxScore)
	}
}

func share(used, allocatable int64) float64 {
	if allocatable == 0 {
		return 1
	}
	return min(1, float64(used)/float64(allocatable))
}

// Weight implements framework.Score.
func (Balanced) Weight() int64 { return 1 }

// Scaling implements framework.Score.
func (Balanced) Scaling() framework.Scaling { return framework.Absolute }

// ImageLocality prefers nodes that have the Pod's images already.
type ImageLocality struct{}

var _ framework.Score = ImageLocality{}

// Name implements framework.Plugin.
func (ImageLocality) Name() string { return "ImageLocality" }

// Images below minImage bytes are quick to pull; above maxImage a container they count no more.
const (
	minImage = 23 << 20
	maxImage = 1000 << 20
)

// PrepareScore implements framework.Score.
func (ImageLocality) PrepareScore(pod *framework.Pod, cluster *framework.Cluster) func(*framework.Node) int64 {
	if len(cluster.Nodes) < 2 {
		return nil
	}
	var names []string
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			names = append(names, normal(list[i].Image))
		}
	}
	have := map[string]int64{}
	for _, name := range names {
		have[name] = int64(cluster.Index.WithImage(name))
	}
	upper := int64(maxImage * len(names))
	return func(n *framework.Node) int64 {
		var sum int64
		for _, name := range names {
			// Spread: an image that few nodes have attracts less, lest they take all Pods.
			sum += n.Images[name] * have[name] / int64(len(cluster.Nodes))
		}
		sum = min(max(sum, minImage), upper)
		return (sum - minImage) * framework.MaxScore / (upper - minImage)
	}
}

// normal gives an image without a tag the tag latest, as node status lists it.
func normal(image string) string {
	if strings.LastIndex(image, ":") <= strings.LastIndex(image, "/") {
		return image + ":latest"
	}
	return image
}

// Weight implements framework.Score.
func (ImageLocality) Weight() int64 { return 1 }

// Scaling implements framework.Score.
func (ImageLocality) Scaling() framework.Scaling { return framework.Absolute }
