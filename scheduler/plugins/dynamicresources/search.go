package dynamicresources

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"

	"github.com/peapod/peapod/scheduler/framework"
)

// allocationTimeout is how long devices may be looked for on one node: there are claims for which all combinations would have to be
// tried.
const allocationTimeout = 10 * time.Second

// search looks for the devices of one Pod on one node after the other.
type search struct {
	pod     *framework.Pod
	devices *framework.Devices
	// claims are those that the Pod names.
	claims []wanted
	// extended says that a class stands for an extended resource of the Pod, so that a node may need a claim for it; stale is one that
	// an earlier try has left.
	extended bool
	stale    *resourcev1.ResourceClaim
	// allocator is nil where all claims are allocated.
	allocator structured.Allocator
}

// wanted is a claim, with the nodes where its allocation can be used; nil for all.
type wanted struct {
	*resourcev1.ResourceClaim
	nodes *nodeaffinity.NodeSelector
}

// newSearch returns nil where the Pod needs no devices. A reason that is not zero says that no node will do.
func newSearch(pod *framework.Pod, devices *framework.Devices) (*search, framework.Reason) {
	s := &search{pod: pod, devices: devices}
	claims, err := claimsOf(pod, devices)
	if err != nil {
		return nil, wrong(err.Error())
	}
	for name, amount := range pod.Requests.Extended {
		s.extended = s.extended || amount > 0 && devices.ClassOf(name) != nil
	}
	if s.extended {
		s.stale = devices.ExtendedClaim(pod.UID)
	}
	if len(claims) == 0 && !s.extended {
		return nil, framework.Reason{}
	}
	allocate := s.extended && s.stale == nil
	for _, claim := range claims {
		w := wanted{ResourceClaim: claim}
		if a := claim.Status.Allocation; a == nil {
			allocate = true
			if reason := allocatable(claim, devices); reason.Verdict != framework.Fits {
				return nil, reason
			}
		} else {
			if !resourceclaim.CanBeReserved(claim) && !resourceclaim.IsReservedForPod(pod.Pod, claim, false) {
				return nil, wrong("resourceclaim in use")
			}
			if a.NodeSelector != nil {
				if w.nodes, err = nodeaffinity.NewNodeSelector(a.NodeSelector); err != nil {
					return nil, failed(err)
				}
			}
		}
		s.claims = append(s.claims, w)
	}
	if allocate {
		if s.allocator, err = devices.Allocator(context.Background()); err != nil {
			return nil, failed(err)
		}
	}
	return s, framework.Reason{}
}

// allocatable says why a claim can be allocated nowhere as yet: another Pod is having that done, or a class is missing.
func allocatable(claim *resourcev1.ResourceClaim, devices *framework.Devices) framework.Reason {
	if devices.Pending(claim.UID) {
		return wrong(fmt.Sprintf("resource claim %s is in the process of being allocated", framework.ClaimKey(claim)))
	}
	for i := range claim.Spec.Devices.Requests {
		r := &claim.Spec.Devices.Requests[i]
		classes := map[string]string{}
		switch {
		case r.Exactly != nil:
			classes[r.Name] = r.Exactly.DeviceClassName
		case len(r.FirstAvailable) > 0:
			for j := range r.FirstAvailable {
				classes[resourceclaim.CreateSubRequestRef(r.Name, r.FirstAvailable[j].Name)] = r.FirstAvailable[j].DeviceClassName
			}
		default:
			return wrong(fmt.Sprintf("resource claim %s, request %s: unknown request type", framework.ClaimKey(claim), r.Name))
		}
		for request, class := range classes {
			switch {
			case class == "":
				return failed(fmt.Errorf("request %s: unsupported request type", request))
			case devices.Class(class) == nil:
				return wrong(fmt.Sprintf("request %s: device class %s does not exist", request, class))
			}
		}
	}
	return framework.Reason{}
}

func wrong(message string) framework.Reason {
	return framework.Reason{Verdict: framework.Wrong, Message: message}
}

func failed(err error) framework.Reason {
	return framework.Reason{Verdict: framework.Failed, Message: err.Error()}
}

// on works out what has to be written for the Pod to have its devices on the node; a reason that is not zero says that it cannot.
func (s *search) on(n *framework.Node) (*framework.DevicePlan, framework.Reason) {
	plan := &framework.DevicePlan{}
	for _, w := range s.claims {
		plan.Claims = append(plan.Claims, framework.PlannedClaim{Claim: w.ResourceClaim})
	}
	if s.extended {
		if s.stale != nil {
			reason := wrong(staleExtended)
			reason.Unblockable = true
			return nil, reason
		}
		needed, reason := s.lacking(n)
		if reason.Verdict != framework.Fits {
			return nil, reason
		}
		if len(needed) > 0 {
			claim := &resourcev1.ResourceClaim{}
			claim, plan.Mappings = s.extendedClaim(needed)
			plan.Claims = append(plan.Claims, framework.PlannedClaim{Claim: claim, Extended: true})
		}
	}
	if reason := s.allocate(n, plan); reason.Verdict != framework.Fits {
		return nil, reason
	}
	if len(s.unavailable(n)) > 0 {
		reason := wrong(unavailable)
		reason.Unblockable = true
		return nil, reason
	}
	return plan, framework.Reason{}
}

// allocate completes the plan for claims that have no devices.
func (s *search) allocate(n *framework.Node, plan *framework.DevicePlan) framework.Reason {
	var claims []*resourcev1.ResourceClaim
	for _, c := range plan.Claims {
		if c.Claim.Status.Allocation == nil {
			claims = append(claims, c.Claim)
		}
	}
	if len(claims) == 0 {
		return framework.Reason{}
	}
	ctx, cancel := context.WithTimeout(context.Background(), allocationTimeout)
	defer cancel()
	results, err := s.allocator.Allocate(ctx, n.Node, claims)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return failed(fmt.Errorf("node %s: timed out trying to allocate devices", n.Node.Name))
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return wrong(err.Error())
	case err != nil:
		return failed(err)
	case len(results) != len(claims):
		return wrong(cannotAllocate)
	}
	for i := range plan.Claims {
		if c := &plan.Claims[i]; c.Claim.Status.Allocation == nil {
			c.Allocation, results = &results[0], results[1:]
		}
	}
	return framework.Reason{}
}

// unavailable are the claims that are allocated, but not to be used on the node: their devices are elsewhere, or do not become ready.
func (s *search) unavailable(n *framework.Node) []*resourcev1.ResourceClaim {
	var out []*resourcev1.ResourceClaim
	for _, w := range s.claims {
		if w.Status.Allocation == nil {
			continue
		}
		ready, err := Ready(w.ResourceClaim)
		if w.nodes != nil && !w.nodes.Match(n.Node) || err != nil || !ready && TimedOut(w.ResourceClaim, s.devices.Now, s.devices.BindTimeout) {
			out = append(out, w.ResourceClaim)
		}
	}
	return out
}

// What is done about claims that keep a Pod from nodes, as its event says it.
const (
	NoClaims     = "no new claims to deallocate"
	StillNowhere = "still not schedulable"
	Deallocated  = "deallocation of ResourceClaim completed"
	Deleted      = "deletion of ResourceClaim completed"
)

// Unblock looks, for a Pod that fits nowhere, for a claim that may be deallocated because only this Pod uses it, or, for extended
// resources, deleted. nodes are those for which Unblockable was said. What is to be done is one of the texts above.
func Unblock(pod *framework.Pod, devices *framework.Devices, nodes []*framework.Node) (*resourcev1.ResourceClaim, string) {
	if !pod.MayNeedDevices() {
		return nil, NoClaims
	}
	s, none := newSearch(pod, devices)
	if s == nil || none.Verdict != framework.Fits {
		return nil, NoClaims
	}
	for _, n := range nodes {
		for _, claim := range s.unavailable(n) {
			if !slices.ContainsFunc(claim.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID != pod.UID }) {
				return claim, Deallocated
			}
		}
	}
	if s.stale != nil {
		return s.stale, Deleted
	}
	return nil, StillNowhere
}
