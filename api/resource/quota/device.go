package quota

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"

	"github.com/peapod/peapod/api/validation"
)

// countDeviceClaims is the number of claims for devices; what they ask for is bounded by class, CLASS.deviceclass.resource.k8s.io/devices, and
// by the extended resources that the class stands for.
const countDeviceClaims corev1.ResourceName = "count/resourceclaims.resource.k8s.io"

// Devices is what has to be known to measure claims for devices. What is not there is a NotFound error. What it returns is only read.
type Devices interface {
	Class(name string) (*resourcev1.DeviceClass, error)
	Pod(namespace, name string) (*corev1.Pod, error)
	// Claims returns all of a namespace.
	Claims(namespace string) ([]*resourcev1.ResourceClaim, error)
}

// deviceClaims measures claims for devices.
type deviceClaims struct{ around Devices }

func deviceClaimEvaluator(list ListFunc, around Devices) quota.Evaluator {
	claims := resourcev1.Resource("resourceclaims")
	return &evaluator{
		resource: claims, list: listOf(claims, list), usage: deviceClaims{around}.usage,
		handles: func(a admission.Attributes) bool {
			return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
		},
		bounds: func(name corev1.ResourceName) bool {
			return name == countDeviceClaims || strings.HasSuffix(string(name), corev1.ResourceClaimsPerClass) || ExtendedRequest(name)
		},
	}
}

// ExtendedRequest says whether a quota bounds by this name what is requested of an extended resource, for which a class may stand.
func ExtendedRequest(name corev1.ResourceName) bool {
	resource, ok := strings.CutPrefix(string(name), corev1.DefaultResourceRequestsPrefix)
	return ok && (!validation.IsNative(name) || strings.HasPrefix(resource, resourcev1.ResourceDeviceClassPrefix))
}

// usage counts the devices that may be allocated at most: by their class, by the resource that has the class's name in its own, and by the
// resource that the class says it stands for. What a Pod is charged for itself counts once: its claim costs the rest of it.
func (d deviceClaims) usage(obj runtime.Object) (corev1.ResourceList, error) {
	claim, err := typed[*resourcev1.ResourceClaim](obj)
	if err != nil {
		return nil, err
	}
	usage, requested := corev1.ResourceList{countDeviceClaims: count(1)}, map[corev1.ResourceName]int64{}
	for name, n := range mostOfEach(claim) {
		usage[corev1.ResourceName(name+corev1.ResourceClaimsPerClass)] = count(int(n))
		requested[corev1.ResourceName(corev1.ResourceImplicitExtendedClaimsPerClass+name)] += n
		class, err := d.around.Class(name)
		switch {
		case apierrors.IsNotFound(err):
		case err != nil:
			return nil, fmt.Errorf("measure claim %s/%s for quota: %w", claim.Namespace, claim.Name, err)
		case class.Spec.ExtendedResourceName != nil:
			requested[corev1.ResourceName(corev1.DefaultResourceRequestsPrefix+*class.Spec.ExtendedResourceName)] += n
		}
	}
	charged, err := d.chargedToPod(claim)
	if err != nil {
		return nil, fmt.Errorf("measure claim %s/%s for quota: %w", claim.Namespace, claim.Name, err)
	}
	for name, n := range requested {
		rest := count(int(n))
		rest.Sub(charged[name])
		if rest.Sign() > 0 {
			usage[name] = rest
		}
	}
	return usage, nil
}

// mostOfEach returns how many devices of each class a claim may get. Of the alternatives of a request one is taken, so of each class the
// most that any of them asks for counts.
func mostOfEach(claim *resourcev1.ResourceClaim) map[string]int64 {
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
	return devices
}

// most is how many devices a request may get: all there are is as many as fit into a claim.
func most(mode resourcev1.DeviceAllocationMode, n int64) int64 {
	if mode == resourcev1.DeviceAllocationModeAll {
		return resourcev1.AllocationResultsMaxSize
	}
	return n
}

// chargedToPod returns what the Pod is charged for whose extended resources the claim is for; nil for any other claim, and for one that only
// says so. Whose claim the Pod's status does not name yet is the Pod's first.
func (d deviceClaims) chargedToPod(claim *resourcev1.ResourceClaim) (corev1.ResourceList, error) {
	owner := ownerOfExtended(claim)
	if owner == nil {
		return nil, nil
	}
	pod, err := d.around.Pod(claim.Namespace, owner.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if pod.UID != owner.UID {
		return nil, nil
	}
	if s := pod.Status.ExtendedResourceClaimStatus; s != nil {
		if s.ResourceClaimName != claim.Name {
			return nil, nil
		}
		return podUsage(pod, time.Now()), nil
	}
	all, err := d.around.Claims(claim.Namespace)
	if err != nil {
		return nil, err
	}
	for _, other := range all {
		if o := ownerOfExtended(other); o != nil && o.UID == owner.UID &&
			cmp.Or(other.CreationTimestamp.Compare(claim.CreationTimestamp.Time), cmp.Compare(other.Name, claim.Name)) < 0 {
			return nil, nil
		}
	}
	return podUsage(pod, time.Now()), nil
}

// ownerOfExtended returns the Pod for whose extended resources the claim says it is, nil if it does not.
func ownerOfExtended(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	owner := metav1.GetControllerOfNoCopy(claim)
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] != "true" || owner == nil || owner.Kind != "Pod" || owner.APIVersion != "v1" {
		return nil
	}
	return owner
}
