// Package dynamicresources finds devices for the claims of Pods (spec.resourceClaims), and for the extended resources that device
// classes stand for. What a device is, and which fit a claim, is the allocator's of k8s.io/dynamic-resource-allocation.
package dynamicresources

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/peapod/peapod/scheduler/framework"
)

// Plugin is the rule.
type Plugin struct{}

var (
	_ framework.Filter     = Plugin{}
	_ framework.Normalizer = Plugin{}
	_ framework.Waker      = Plugin{}
)

// Name implements framework.Plugin.
func (Plugin) Name() string { return "DynamicResources" }

const (
	unavailable    = "resourceclaim not available on the node"
	cannotAllocate = "cannot allocate all claims"
	cannotFit      = "cannot fit resource"
	staleExtended  = "cannot schedule extended resource claim"
)

// errNotFound is why a Pod waits whose claim is not there.
var errNotFound = errors.New("object not found")

// Gate says why it is too early to look for a node: a claim is not there yet, or is going. Nothing is told of that, as it is about to
// change: claims of templates are made after their Pods.
func Gate(pod *framework.Pod, devices *framework.Devices) error {
	_, err := claimsOf(pod, devices)
	return err
}

// claimsOf returns the claims that the Pod names, in order, each once.
func claimsOf(pod *framework.Pod, devices *framework.Devices) ([]*resourcev1.ResourceClaim, error) {
	var out []*resourcev1.ResourceClaim
	for i := range pod.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(pod.Pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue // it was decided that the Pod needs none
		}
		claim := devices.Claim(types.NamespacedName{Namespace: pod.Namespace, Name: *name})
		switch {
		case claim == nil:
			return nil, fmt.Errorf("resourceclaim %q: %w", *name, errNotFound)
		case claim.DeletionTimestamp != nil:
			return nil, fmt.Errorf("resourceclaim %q is being deleted", claim.Name)
		}
		if own {
			if err := resourceclaim.IsForPod(pod.Pod, claim, false); err != nil {
				return nil, err
			}
		}
		if !slices.Contains(out, claim) {
			out = append(out, claim)
		}
	}
	return out, nil
}

// Prepare implements framework.Filter. What is found for a node is kept for the score, and for the plan where the node is chosen.
func (Plugin) Prepare(pod *framework.Pod, cluster *framework.Cluster) (func(*framework.Node) []framework.Reason, framework.Reason) {
	if !pod.MayNeedDevices() {
		return nil, framework.Reason{}
	}
	s, none := newSearch(pod, cluster.Devices)
	if s == nil || none.Verdict != framework.Fits {
		return nil, none
	}
	found := cluster.Devices.Search(pod.UID)
	return func(n *framework.Node) []framework.Reason {
		plan, reason := s.on(n)
		if reason.Verdict != framework.Fits {
			return []framework.Reason{reason}
		}
		found.OnNode[n.Node.Name] = plan
		return nil
	}, framework.Reason{}
}

// Plan returns what has to be written before the Pod can be bound to the node, which Prepare has let pass; nil for nothing.
func Plan(pod *framework.Pod, devices *framework.Devices, n *framework.Node) (*framework.DevicePlan, error) {
	if !pod.MayNeedDevices() {
		return nil, nil
	}
	plan := devices.Found(pod.UID, n.Node.Name)
	if plan == nil {
		s, none := newSearch(pod, devices)
		if s == nil && none.Verdict == framework.Fits {
			return nil, nil
		}
		if none.Verdict == framework.Fits {
			plan, none = s.on(n)
		}
		if none.Verdict != framework.Fits {
			return nil, fmt.Errorf("plan devices: %s", none.Message)
		}
	}
	if len(plan.Claims) == 0 {
		return nil, nil
	}
	return plan, nil
}

// Helps implements framework.Waker: a claim of the Pod appeared or its status changed, devices of any claim are free again, there are
// other classes or slices, a rule taints them no more, or a node has other labels or more to give.
func (Plugin) Helps(pod *framework.Pod, e framework.Event) bool {
	if e.Devices == nil {
		return e.NodeAppearedOr(func(old, new *corev1.Node) bool {
			return !maps.Equal(old.Labels, new.Labels) || !equality.Semantic.DeepEqual(old.Status.Allocatable, new.Status.Allocatable)
		})
	}
	old, new := e.Devices.OldClaim, e.Devices.NewClaim
	switch {
	case old == nil && new == nil:
		return e.Devices.NewClass != nil || e.Devices.NewSlice != nil || e.Devices.OldRule != nil || *e.Devices == framework.DeviceEvent{}
	case old != nil && old.Status.Allocation != nil && (new == nil || new.Status.Allocation == nil):
		return true
	case new == nil:
		return metav1.IsControlledBy(old, pod.Pod) // left from an earlier try
	case !uses(pod, new):
		return false
	}
	return old == nil || !equality.Semantic.DeepEqual(old.Status, new.Status)
}

// uses says whether the Pod names the claim.
func uses(pod *framework.Pod, claim *resourcev1.ResourceClaim) bool {
	if pod.Namespace != claim.Namespace {
		return false
	}
	for name := range resourceclaim.PodClaims(pod.Pod) {
		if name == claim.Name {
			return true
		}
	}
	return false
}
