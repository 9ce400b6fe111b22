package quota

import (
	"errors"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/utils/ptr"
)

// here is what there is: classes by the extended resource they stand for, one Pod, and claims. What cannot be read of it fails with errSick.
type here struct {
	classes map[string]string
	pod     *corev1.Pod
	claims  []*resourcev1.ResourceClaim
	sick    string
}

var errSick = errors.New("the API does not answer")

func (h here) fails(what string) error {
	if h.sick == what {
		return errSick
	}
	return nil
}

func (h here) Class(name string) (*resourcev1.DeviceClass, error) {
	resource, ok := h.classes[name]
	if !ok {
		return nil, apierrors.NewNotFound(resourcev1.Resource("deviceclasses"), name)
	}
	class := &resourcev1.DeviceClass{}
	if resource != "" {
		class.Spec.ExtendedResourceName = &resource
	}
	return class, h.fails("classes")
}

func (h here) Pod(_, name string) (*corev1.Pod, error) {
	if h.pod == nil || h.pod.Name != name {
		return nil, apierrors.NewNotFound(corev1.Resource("pods"), name)
	}
	return h.pod, h.fails("pods")
}

func (h here) Claims(string) ([]*resourcev1.ResourceClaim, error) { return h.claims, h.fails("claims") }

func claimEvaluatorOf(t *testing.T, h here) quota.Evaluator {
	t.Helper()
	for _, e := range Measured(nil, h) {
		if e.GroupResource() == resourcev1.Resource("resourceclaims") {
			return e
		}
	}
	t.Fatal("claims for devices are not measured")
	return nil
}

func exactly(class string, mode resourcev1.DeviceAllocationMode, n int64) resourcev1.DeviceRequest {
	return resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: mode, Count: n}}
}

func asking(requests ...resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}}}
}

// Of alternatives the worst counts, for each class; classes that stand for the same resource are added.
func TestDeviceClaimCosts(t *testing.T) {
	one := func(class string, mode resourcev1.DeviceAllocationMode, n int64) resourcev1.DeviceSubRequest {
		return resourcev1.DeviceSubRequest{DeviceClassName: class, AllocationMode: mode, Count: n}
	}
	claim := asking(exactly("gone", "ExactCount", 1), exactly("gpu", "ExactCount", 2), exactly("gpu", "ExactCount", 1), exactly("nic", "All", 0),
		resourcev1.DeviceRequest{FirstAvailable: []resourcev1.DeviceSubRequest{one("gpu", "ExactCount", 4), one("gpu", "ExactCount", 3), one("small", "ExactCount", 8)}})
	e := claimEvaluatorOf(t, here{classes: map[string]string{"gpu": "example.com/gpu", "small": "example.com/gpu", "nic": ""}})
	got, err := e.Usage(claim)
	if err != nil {
		t.Fatal(err)
	}
	same(t, got, list("count/resourceclaims.resource.k8s.io", "1", "gpu.deviceclass.resource.k8s.io/devices", "7",
		"gone.deviceclass.resource.k8s.io/devices", "1", "requests.deviceclass.resource.kubernetes.io/gone", "1",
		"nic.deviceclass.resource.k8s.io/devices", "32", "small.deviceclass.resource.k8s.io/devices", "8",
		"requests.deviceclass.resource.kubernetes.io/gpu", "7", "requests.deviceclass.resource.kubernetes.io/nic", "32",
		"requests.deviceclass.resource.kubernetes.io/small", "8", "requests.example.com/gpu", "15"))
	if m := e.MatchingResources(quota.ResourceNames(got)); len(m) != len(got) {
		t.Errorf("bounds only %v", m)
	}
	if m := e.MatchingResources([]corev1.ResourceName{"requests.cpu", "pods", "example.com/gpu", "requests.kubernetes.io/x"}); len(m) != 0 {
		t.Errorf("bounds %v too", m)
	}
}

// A Pod is charged for extended resources when it is created; the claim that they become costs what is more than that.
func TestClaimForExtendedResourcesCosts(t *testing.T) {
	owned := func(change func(*resourcev1.ResourceClaim)) *resourcev1.ResourceClaim {
		c := asking(exactly("gpu", "ExactCount", 4))
		c.CreationTimestamp = metav1.NewTime(time.Unix(100, 0))
		c.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
		c.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: "p", UID: "1", Controller: ptr.To(true)}}
		if change != nil {
			change(c)
		}
		return c
	}
	of := func(status string, phase corev1.PodPhase) *corev1.Pod {
		p := pod(list("example.com/gpu", "3", "deviceclass.resource.kubernetes.io/gpu", "1"), nil)
		p.Name, p.UID, p.Status.Phase = "p", "1", phase
		if status != "" {
			p.Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: status}
		}
		return p
	}
	earlier := func(c *resourcev1.ResourceClaim) { c.Name, c.CreationTimestamp = "z", metav1.NewTime(time.Unix(99, 0)) }
	for _, c := range []struct {
		name   string
		pod    *corev1.Pod
		claim  *resourcev1.ResourceClaim
		others []*resourcev1.ResourceClaim
		// rest are what it costs of example.com/gpu and of the resource named for the class, zero for nothing.
		rest [2]string
	}{
		{"the Pod's", of("", ""), owned(nil), []*resourcev1.ResourceClaim{owned(nil)}, [2]string{"1", "3"}},
		{"the one that the Pod names", of("c", ""), owned(nil), []*resourcev1.ResourceClaim{owned(earlier)}, [2]string{"1", "3"}},
		{"not the one that the Pod names", of("z", ""), owned(nil), nil, [2]string{"4", "4"}},
		{"a second one", of("", ""), owned(nil), []*resourcev1.ResourceClaim{owned(earlier)}, [2]string{"4", "4"}},
		{"a second one by name", of("", ""), owned(nil), []*resourcev1.ResourceClaim{owned(func(c *resourcev1.ResourceClaim) { c.Name = "a" })}, [2]string{"4", "4"}},
		{"the first by name", of("", ""), owned(nil), []*resourcev1.ResourceClaim{owned(func(c *resourcev1.ResourceClaim) { c.Name = "d" })}, [2]string{"1", "3"}},
		{"beside another Pod's", of("", ""), owned(nil), []*resourcev1.ResourceClaim{owned(func(c *resourcev1.ResourceClaim) { earlier(c); c.OwnerReferences[0].UID = "2" })}, [2]string{"1", "3"}},
		{"of a Pod that has ended", of("c", corev1.PodSucceeded), owned(nil), nil, [2]string{"4", "4"}},
		{"of a Pod that has gone", nil, owned(nil), nil, [2]string{"4", "4"}},
		{"of a Pod of before", of("", ""), owned(func(c *resourcev1.ResourceClaim) { c.OwnerReferences[0].UID = "0" }), nil, [2]string{"4", "4"}},
		{"that does not say so", of("", ""), owned(func(c *resourcev1.ResourceClaim) { c.Annotations = nil }), nil, [2]string{"4", "4"}},
		{"that nobody controls", of("", ""), owned(func(c *resourcev1.ResourceClaim) { c.OwnerReferences[0].Controller = nil }), nil, [2]string{"4", "4"}},
		{"of what is no Pod", of("", ""), owned(func(c *resourcev1.ResourceClaim) { c.OwnerReferences[0].Kind = "Job" }), nil, [2]string{"4", "4"}},
		{"less than the Pod's", of("", ""), owned(func(c *resourcev1.ResourceClaim) { c.Spec.Devices.Requests[0].Exactly.Count = 1 }), nil, [2]string{"0", "0"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got, err := claimEvaluatorOf(t, here{map[string]string{"gpu": "example.com/gpu"}, c.pod, c.others, ""}).Usage(c.claim)
			if err != nil {
				t.Fatal(err)
			}
			for i, name := range []corev1.ResourceName{"requests.example.com/gpu", "requests.deviceclass.resource.kubernetes.io/gpu"} {
				if q := got[name]; q.String() != c.rest[i] {
					t.Errorf("costs %s of %s, want %s", q.String(), name, c.rest[i])
				}
			}
		})
	}
	for _, what := range []string{"classes", "pods", "claims"} {
		if _, err := claimEvaluatorOf(t, here{map[string]string{"gpu": ""}, of("", ""), nil, what}).Usage(owned(nil)); !errors.Is(err, errSick) {
			t.Errorf("%s that could not be read count as none: %v", what, err)
		}
	}
}
