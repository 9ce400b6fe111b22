package dynamicresources

import (
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/peapod/peapod/scheduler/framework"
)

// PrepareScore implements framework.Score: of requests with alternatives (firstAvailable), the earlier one that a node has the better.
// Where no claim has such, it makes no difference.
func (Plugin) PrepareScore(pod *framework.Pod, cluster *framework.Cluster, fit []*framework.Node) func(*framework.Node) int64 {
	if len(pod.Spec.ResourceClaims) == 0 {
		return nil
	}
	alternatives := false
	for _, n := range fit {
		if plan := cluster.Devices.Found(pod.UID, n.Node.Name); plan != nil && slices.ContainsFunc(plan.Claims, hasAlternatives) {
			alternatives = true
			break
		}
	}
	if !alternatives {
		return nil
	}
	return func(n *framework.Node) int64 {
		var sum int64
		if plan := cluster.Devices.Found(pod.UID, n.Node.Name); plan != nil {
			for i := range plan.Claims {
				sum += preferred(&plan.Claims[i])
			}
		}
		return sum
	}
}

func hasAlternatives(c framework.PlannedClaim) bool {
	return c.Allocation != nil && slices.ContainsFunc(c.Claim.Spec.Devices.Requests, func(r resourcev1.DeviceRequest) bool { return len(r.FirstAvailable) > 0 })
}

// preferred adds up how early the alternatives are that the claim is to get.
func preferred(c *framework.PlannedClaim) (sum int64) {
	if c.Allocation == nil {
		return 0
	}
	for i := range c.Claim.Spec.Devices.Requests {
		r := &c.Claim.Spec.Devices.Requests[i]
		for j := range r.FirstAvailable {
			name := resourceclaim.CreateSubRequestRef(r.Name, r.FirstAvailable[j].Name)
			if slices.ContainsFunc(c.Allocation.Devices.Results, func(got resourcev1.DeviceRequestAllocationResult) bool { return got.Request == name }) {
				sum += int64(resourcev1.FirstAvailableDeviceRequestMaxSize - j)
			}
		}
	}
	return sum
}

// Normalize implements framework.Normalizer.
func (Plugin) Normalize(raw []int64) { framework.ScaleToMax(raw, false) }

// Weight implements framework.Score.
func (Plugin) Weight() int64 { return 2 }
