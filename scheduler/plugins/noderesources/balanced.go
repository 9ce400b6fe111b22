package noderesources

import (
	"math"

	"github.com/peapod/peapod/scheduler/framework"
)

// Balanced prefers nodes whose shares of cpu and memory in use the Pod makes more alike.
type Balanced struct{}

var _ framework.Score = Balanced{}

// Name implements framework.Plugin.
func (Balanced) Name() string { return "NodeResourcesBalancedAllocation" }

// PrepareScore implements framework.Score: from half of the best score, for a Pod that makes a node as uneven as can be, to
// the best, for one that evens it out. A Pod without requests makes no difference.
func (Balanced) PrepareScore(pod *framework.Pod, _ *framework.Cluster, _ []*framework.Node) func(*framework.Node) int64 {
	if pod.Requests.MilliCPU == 0 && pod.Requests.Memory == 0 {
		return nil
	}
	return func(n *framework.Node) int64 {
		without := balance(n.Requested.MilliCPU, n.Requested.Memory, n)
		with := balance(n.Requested.MilliCPU+pod.Requests.MilliCPU, n.Requested.Memory+pod.Requests.Memory, n)
		return framework.MaxScore/2 + (framework.MaxScore/2+with-without)/2
	}
}

// balance is MaxScore where as large a share of the node's cpu is in use as of its memory, and less by the standard deviation of
// the shares, which for two is half their difference.
func balance(milliCPU, memory int64, n *framework.Node) int64 {
	if n.Allocatable.MilliCPU == 0 || n.Allocatable.Memory == 0 {
		return framework.MaxScore
	}
	cpu := min(1, float64(milliCPU)/float64(n.Allocatable.MilliCPU))
	mem := min(1, float64(memory)/float64(n.Allocatable.Memory))
	return int64((1 - math.Abs((cpu-mem)/2)) * framework.MaxScore)
}

// Weight implements framework.Score.
func (Balanced) Weight() int64 { return 1 }
