package resourceclaim

import (
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

func start(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, New)
	w.Watch(t, w.Informers.Resource().V1().ResourceClaims().Informer())
	w.Watch(t, w.Informers.Core().V1().Pods().Informer())
	return w
}

func spec() resourcev1.ResourceClaimSpec {
	return resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: []resourcev1.DeviceRequest{
		{Name: "gpu", Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: "gpu"}}}}}
}

func template(t *testing.T, w *controltest.World) {
	t.Helper()
	_, err := w.Client.ResourceV1().ResourceClaimTemplates(ns).Create(t.Context(), &resourcev1.ResourceClaimTemplate{
		ObjectMeta: metav1.ObjectMeta{Name: "gpus"},
		Spec: resourcev1.ResourceClaimTemplateSpec{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"a": "b"}, Annotations: map[string]string{"c": "d"}}, Spec: spec()},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
}

// pod makes one with the claims "first" and "second" of the template, and "given" of its own name; node may be empty.
func pod(t *testing.T, w *controltest.World, name, node string, claims ...string) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: controltest.Template(nil).Spec}
	p.Spec.NodeName = node
	for _, c := range claims {
		r := corev1.PodResourceClaim{Name: c, ResourceClaimTemplateName: ptr.To("gpus")}
		if c == "given" {
			r = corev1.PodResourceClaim{Name: c, ResourceClaimName: ptr.To("given")}
		}
		p.Spec.ResourceClaims = append(p.Spec.ResourceClaims, r)
	}
	p, err := w.Client.CoreV1().Pods(ns).Create(t.Context(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// told waits until the Pod knows so many claims, and returns them.
func told(t *testing.T, w *controltest.World, name string, n int) map[string]string {
	t.Helper()
	names := map[string]string{}
	w.Await(t, "claims in the status of pod "+name, func() bool {
		p, err := w.Client.CoreV1().Pods(ns).Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range p.Status.ResourceClaimStatuses {
			names[s.Name] = *s.ResourceClaimName
		}
		return len(names) == n
	})
	return names
}

func claim(t *testing.T, w *controltest.World, name string) *resourcev1.ResourceClaim {
	t.Helper()
	c, err := w.Client.ResourceV1().ResourceClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// allocate does what the scheduler does.
func allocate(t *testing.T, w *controltest.World, c *resourcev1.ResourceClaim, users ...resourcev1.ResourceClaimConsumerReference) {
	t.Helper()
	claims := w.Client.ResourceV1().ResourceClaims(ns)
	c.Finalizers = append(c.Finalizers, resourcev1.Finalizer)
	c, err := claims.Update(t.Context(), c, metav1.UpdateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Status.Allocation, c.Status.ReservedFor = &resourcev1.AllocationResult{}, users
	if _, err = claims.UpdateStatus(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func given(t *testing.T, w *controltest.World) *resourcev1.ResourceClaim {
	t.Helper()
	c, err := w.Client.ResourceV1().ResourceClaims(ns).Create(t.Context(), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: "given"}, Spec: spec()}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func user(p *corev1.Pod) resourcev1.ResourceClaimConsumerReference {
	return resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p.Name, UID: p.UID}
}

func TestClaimsAreMadeOfTheTemplate(t *testing.T) {
	w := start(t)
	template(t, w)
	p := pod(t, w, "web", "", "first", "second")
	names := told(t, w, "web", 2)
	first := claim(t, w, names["first"])
	owner := metav1.GetControllerOf(first)
	if owner == nil || owner.UID != p.UID || owner.Kind != "Pod" || first.Labels["a"] != "b" || first.Annotations["c"] != "d" ||
		first.Annotations[resourcev1.PodResourceClaimAnnotation] != "first" || first.GenerateName != "web-first-" ||
		!strings.HasPrefix(first.Name, "web-first-") || first.Spec.Devices.Requests[0].Exactly.Count != 1 {
		t.Errorf("made %+v", first)
	}
	p, err := w.Client.CoreV1().Pods(ns).Get(t.Context(), "web", metav1.GetOptions{})
	if err != nil || !slices.ContainsFunc(p.ManagedFields, func(m metav1.ManagedFieldsEntry) bool { return m.Manager == fieldManager && m.Subresource == "status" }) {
		t.Errorf("who wrote the status: %+v, %v", p.ManagedFields, err)
	}
	// Who deletes one does not leave the Pod without; the other is the same, and neither is made twice.
	if err := w.Client.ResourceV1().ResourceClaims(ns).Delete(t.Context(), first.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the claim to come back", func() bool {
		c, err := w.Client.ResourceV1().ResourceClaims(ns).Get(t.Context(), told(t, w, "web", 2)["first"], metav1.GetOptions{})
		return err == nil && c.UID != first.UID
	})
	list, err := w.Client.ResourceV1().ResourceClaims(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Errorf("there are %d claims, %v", len(list.Items), err)
	}
}

// A Pod waits for its template, and is told when that comes.
func TestTheTemplateComesLater(t *testing.T) {
	w := start(t)
	pod(t, w, "web", "", "first")
	w.Event(t, "web", "FailedResourceClaimCreation", `PodResourceClaim first: resource claim template "gpus": resourceclaimtemplates.resource.k8s.io "gpus" not found`)
	template(t, w)
	told(t, w, "web", 1)
	// And so does the next one, whose template goes before it comes.
	if err := w.Client.ResourceV1().ResourceClaimTemplates(ns).Delete(t.Context(), "gpus", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	pod(t, w, "db", "", "first")
	w.Event(t, "db", "FailedResourceClaimCreation", "not found")
	template(t, w)
	told(t, w, "db", 1)
}

// What another made is not the Pod's, whatever its name.
func TestAnothersClaimIsNotTaken(t *testing.T) {
	w := start(t)
	p := pod(t, w, "web", "", "first")
	stranger := "web-first-" + suffix(p.UID, "first", 0)
	if _, err := w.Client.ResourceV1().ResourceClaims(ns).Create(t.Context(), &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: stranger}, Spec: spec()}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	template(t, w)
	if name := told(t, w, "web", 1)["first"]; name != "web-first-"+suffix(p.UID, "first", 1) {
		t.Errorf("the Pod was told %s", name)
	}
}

// A claim is released when the last Pod that uses it is over, and stays for the next.
func TestTheLastUserReleasesAClaim(t *testing.T) {
	w := start(t)
	c := given(t, w)
	a, b := pod(t, w, "a", "", "given"), pod(t, w, "b", "", "given")
	allocate(t, w, c, user(a), user(b))
	w.SetPhase(t, a, corev1.PodSucceeded)
	w.Await(t, "the reservation of a to end", func() bool {
		return slices.Equal(claim(t, w, "given").Status.ReservedFor, []resourcev1.ResourceClaimConsumerReference{user(b)})
	})
	if c = claim(t, w, "given"); c.Status.Allocation == nil || len(c.Finalizers) != 1 {
		t.Errorf("with a user left: %+v", c)
	}
	w.DeletePod(t, "b")
	w.Await(t, "the claim to be free", func() bool {
		c = claim(t, w, "given")
		return c.Status.Allocation == nil && len(c.Status.ReservedFor) == 0 && len(c.Finalizers) == 0
	})
}

// A Pod of the same name is another user. Who is no Pod is not judged.
func TestWhoUsesAClaimIsKnownByUID(t *testing.T) {
	w := start(t)
	c := given(t, w)
	p := pod(t, w, "a", "", "given")
	gone := user(p)
	gone.UID = "another"
	thing := resourcev1.ResourceClaimConsumerReference{APIGroup: "example.com", Resource: "things", Name: "x", UID: "x"}
	allocate(t, w, c, gone, thing)
	w.Await(t, "the reservation to end", func() bool {
		return slices.Equal(claim(t, w, "given").Status.ReservedFor, []resourcev1.ResourceClaimConsumerReference{thing})
	})
	if c = claim(t, w, "given"); c.Status.Allocation == nil {
		t.Error("the allocation is gone")
	}
}

// A claim that was made for a Pod goes with the Pod's end, and does not come back.
func TestClaimsOfPodsThatAreOverGo(t *testing.T) {
	w := start(t)
	template(t, w)
	p := pod(t, w, "job", "", "first")
	name := told(t, w, "job", 1)["first"]
	allocate(t, w, claim(t, w, name), user(p))
	p, err := w.Client.CoreV1().Pods(ns).Get(t.Context(), "job", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.SetPhase(t, p, corev1.PodFailed)
	w.Await(t, "the claim to go", func() bool {
		_, err := w.Client.ResourceV1().ResourceClaims(ns).Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	// What comes later was made later: the order of events says so.
	pod(t, w, "next", "", "first")
	next := told(t, w, "next", 1)["first"]
	list, err := w.Client.ResourceV1().ResourceClaims(ns).List(t.Context(), metav1.ListOptions{})
	if err != nil || len(list.Items) != 1 || list.Items[0].Name != next {
		t.Errorf("there are %v, %v", list.Items, err)
	}
}

// A claim that is allocated and used by nobody is let go when it is deleted.
func TestADeletedClaimIsLetGo(t *testing.T) {
	w := start(t)
	c := given(t, w)
	allocate(t, w, c)
	if err := w.Client.ResourceV1().ResourceClaims(ns).Delete(t.Context(), "given", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the claim to go", func() bool {
		_, err := w.Client.ResourceV1().ResourceClaims(ns).Get(t.Context(), "given", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// Pods that came to their nodes without the scheduler use what is allocated.
func TestPodsOnNodesAreReservedFor(t *testing.T) {
	w := start(t)
	allocate(t, w, given(t, w))
	p := pod(t, w, "static", "node-1", "given")
	w.Await(t, "the reservation", func() bool {
		return slices.Equal(claim(t, w, "given").Status.ReservedFor, []resourcev1.ResourceClaimConsumerReference{user(p)})
	})
}

func TestNamesFit(t *testing.T) {
	for _, c := range []struct{ pod, claim, want string }{
		{"web", "gpu", "web-gpu-"},
		{strings.Repeat("p", 60), "gpu", strings.Repeat("p", 52) + "-gp"},
		{strings.Repeat("p", 60), strings.Repeat("c", 60), strings.Repeat("p", 28) + "-" + strings.Repeat("c", 28)},
	} {
		if got := baseName(c.pod, c.claim); got != c.want || len(got) > maxBase {
			t.Errorf("%s %s: %s, want %s", c.pod, c.claim, got, c.want)
		}
	}
	if a, b := suffix("u", "a", 0), suffix("u", "a", 1); len(a) != 5 || a == b {
		t.Errorf("suffixes %s and %s", a, b)
	}
}
