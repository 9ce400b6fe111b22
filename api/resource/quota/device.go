package quota

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

// countDeviceClaims is the number of claims for devices; what they ask for is bounded by class, CLASS.deviceclass.resource.k8s.io/devices.
const countDeviceClaims corev1.ResourceName = "count/resourceclaims.resource.k8s.io"

func deviceClaimEvaluator(list ListFunc) quota.Evaluator {
	claims := resourcev1.Resource("resourceclaims")
	return &evaluator{
		resource: claims, list: listOf(claims, list), usage: deviceClaimUsage,
		handles: func(a admission.Attributes) bool {
			return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
		},
		bounds: func(name corev1.ResourceName) bool {
			return name == countDeviceClaims || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass)
		},
	}
}

// deviceClaimUsage counts the devices that may be allocated at most. Of the alternatives of a request one is taken, so of each class
// the most that any of them asks for counts.
func deviceClaimUsage(obj runtime.Object) (corev1.ResourceList, error) {
	claim, err := typed[*resourcev1.ResourceClaim](obj)
	if err != nil {
		return nil, err
	}
	devices := map[string]int64{}
	for i := range claim.Spec.Devices.Requests {
		r := &claim.Spec.Devices.Requests[i]
		if e := r.Exactly; e != nil && len(r.FirstAvailable) == 0 {
			devices[e.DeviceClassName] += most(e.AllocationMode, e.Count)
			continue
		}
		alternatives := map[string]int64{}
		for _, s := range r.FirstAvailable {
			alternatives[s.DeviceClassName] = max(alternatives[s.DeviceClassName], most(s.AllocationMode, s.Count))
		}
		for class, n := range alternatives {
			devices[class] += n
		}
	}
	usage := corev1.ResourceList{countDeviceClaims: count(1)}
	for class, n := range devices {
		usage[corev1.ResourceName(class+corev1.ResourceClaimsPerClass)] = count(int(n))
	}
	return usage, nil
}

// most is how many devices a request may get: all there are is as many as fit into a claim.
func most(mode resourcev1.DeviceAllocationMode, n int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return n
}
