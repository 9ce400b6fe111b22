package resourcequota

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiresource "k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/controltest"
)

// newDeviceClaim makes a claim for so many devices of class gpu; where there is a Pod, for its extended resources.
func newDeviceClaim(t *testing.T, w *controltest.World, name string, n int64, pod *corev1.Pod) {
	t.Helper()
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{
		Requests: []resourcev1.DeviceRequest{{Name: "r", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu", Count: n}}}}}}
	if pod != nil {
		claim.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
		claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}}
	}
	if _, err := w.Client.ResourceV1().ResourceClaims(controltest.Namespace).Create(t.Context(), claim, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// What a class stands for may be said before and after claims ask for it, and anew: no claim changes by that, but what quotas have left does.
func TestDevicesCountAsWhatTheirClassStandsFor(t *testing.T) {
	w := start(t)
	newDeviceClaim(t, w, "own", 1, nil)
	p := newPod(t, w, "p", func(p *corev1.Pod) {
		two := corev1.ResourceList{"example.com/gpu": apiresource.MustParse("2")}
		p.Spec.Containers[0].Resources = corev1.ResourceRequirements{Requests: two, Limits: two}
	})
	newDeviceClaim(t, w, "extended", 3, p)
	newQuota(t, w, "q", nil, "count/resourceclaims.resource.k8s.io", "9", "gpu.deviceclass.resource.k8s.io/devices", "9",
		"requests.deviceclass.resource.kubernetes.io/gpu", "9", "requests.example.com/gpu", "9", "requests.example.com/other", "9")
	used := func(gpu, other string) {
		t.Helper()
		awaitUsed(t, w, "q", "count/resourceclaims.resource.k8s.io", "2", "gpu.deviceclass.resource.k8s.io/devices", "4",
			"requests.deviceclass.resource.kubernetes.io/gpu", "4", "requests.example.com/gpu", gpu, "requests.example.com/other", other)
	}
	used("2", "0")
	classes := w.Client.ResourceV1().DeviceClasses()
	class := &resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}}
	class.Spec.ExtendedResourceName = ptr.To("example.com/gpu")
	class, err := classes.Create(t.Context(), class, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	used("4", "0")
	// More often than a quota is counted again because of what was charged before.
	for i := range 4 {
		name, gpu, other := "example.com/other", "2", "4"
		if i%2 == 1 {
			name, gpu, other = "example.com/gpu", "4", "0"
		}
		class.Spec.ExtendedResourceName = &name
		if class, err = classes.Update(t.Context(), class, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
		used(gpu, other)
	}
	if err := classes.Delete(t.Context(), "gpu", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	used("2", "0")
}
