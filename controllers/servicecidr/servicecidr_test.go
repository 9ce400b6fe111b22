package servicecidr

import (
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/serviceip"
	"github.com/peapod/peapod/test/controltest"
)

// world has the controller run, without the time that API servers are given to learn of a deletion.
func world(t *testing.T) *controltest.World {
	t.Helper()
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) { return newController(d, 0) })
	w.Watch(t, w.Informers.Networking().V1().ServiceCIDRs().Informer())
	w.Watch(t, w.Informers.Networking().V1().IPAddresses().Informer())
	return w
}

func add(t *testing.T, w *controltest.World, name string, cidrs ...string) {
	t.Helper()
	r := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	if _, err := w.Client.NetworkingV1().ServiceCIDRs().Create(t.Context(), r, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, w, name, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
}

// await waits until the ServiceCIDR has the finalizer and says of itself.
func await(t *testing.T, w *controltest.World, name string, status metav1.ConditionStatus, reason, message string) {
	t.Helper()
	w.Await(t, name+" to be "+string(status)+" "+reason, func() bool {
		r, err := w.Client.NetworkingV1().ServiceCIDRs().Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c := meta.FindStatusCondition(r.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
		return c != nil && c.Status == status && c.Reason == reason && c.Message == message && !c.LastTransitionTime.IsZero() &&
			slices.Contains(r.Finalizers, "networking.k8s.io/service-cidr-finalizer")
	})
}

func remove(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	if err := w.Client.NetworkingV1().ServiceCIDRs().Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func awaitGone(t *testing.T, w *controltest.World, name string) {
	t.Helper()
	w.Await(t, name+" to be gone", func() bool {
		_, err := w.Client.NetworkingV1().ServiceCIDRs().Get(t.Context(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// service makes a Service with that address.
func service(t *testing.T, w *controltest.World, name, ip string) {
	t.Helper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
	if _, err := w.Client.CoreV1().Services(controltest.Namespace).Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

const (
	terminating = "Terminating"
	blocked     = "There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"
)

func TestReadyAndGone(t *testing.T) {
	w := world(t)
	await(t, w, serviceip.DefaultCIDR, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
	add(t, w, "more", "10.9.0.0/24", "fd09::/64")
	remove(t, w, "more")
	awaitGone(t, w, "more")
}

// A ServiceCIDR stays until the last of its addresses has gone.
func TestAddressesKeepIt(t *testing.T) {
	w := world(t)
	add(t, w, "more", "10.9.0.0/24")
	service(t, w, "one", "10.9.0.7")
	service(t, w, "two", "10.9.0.8")
	remove(t, w, "more")
	await(t, w, "more", metav1.ConditionFalse, terminating, blocked)
	for _, name := range []string{"one", "two"} {
		if _, err := w.Client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "more", metav1.GetOptions{}); err != nil {
			t.Fatalf("before Service %s was deleted: %v", name, err)
		}
		if err := w.Client.CoreV1().Services(controltest.Namespace).Delete(t.Context(), name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	awaitGone(t, w, "more")
}

// Another ServiceCIDR that has the addresses lets it go.
func TestAnotherHasThem(t *testing.T) {
	w := world(t)
	add(t, w, "more", "10.9.0.0/24")
	service(t, w, "one", "10.9.0.7")
	add(t, w, "same", "10.9.0.0/24")
	remove(t, w, "more")
	awaitGone(t, w, "more")
	remove(t, w, "same")
	await(t, w, "same", metav1.ConditionFalse, terminating, blocked)
	add(t, w, "small", "10.9.0.16/28") // has not the address
	await(t, w, "same", metav1.ConditionFalse, terminating, blocked)
	add(t, w, "large", "10.8.0.0/15")
	awaitGone(t, w, "same")
}

// Another ServiceCIDR that has the addresses does not count once it is being deleted itself.
func TestBothAreDeleted(t *testing.T) {
	w := world(t)
	add(t, w, "large", "10.8.0.0/15")
	add(t, w, "small", "10.9.0.0/24")
	service(t, w, "one", "10.9.0.7")
	service(t, w, "two", "10.8.0.7")
	remove(t, w, "large")
	await(t, w, "large", metav1.ConditionFalse, terminating, blocked)
	remove(t, w, "small")
	await(t, w, "small", metav1.ConditionFalse, terminating, blocked)
	if err := w.Client.CoreV1().Services(controltest.Namespace).Delete(t.Context(), "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitGone(t, w, "small")
	await(t, w, "large", metav1.ConditionFalse, terminating, blocked)
}

// An address that a user has taken is no Service's and keeps nothing.
func TestAddressesOfOthers(t *testing.T) {
	w := world(t)
	add(t, w, "more", "10.9.0.0/24")
	ip := &networkingv1.IPAddress{ObjectMeta: metav1.ObjectMeta{Name: "10.9.0.9"}, Spec: networkingv1.IPAddressSpec{
		ParentRef: &networkingv1.ParentReference{Group: "example.com", Resource: "gateways", Name: "g"}}}
	if _, err := w.Client.NetworkingV1().IPAddresses().Create(t.Context(), ip, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	remove(t, w, "more")
	awaitGone(t, w, "more")
}

// For a while after its deletion a ServiceCIDR stays though nothing keeps it.
func TestGrace(t *testing.T) {
	c := &controller{grace: time.Hour, ranges: nil}
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		r, err := newController(d, time.Hour)
		c.client, c.ranges, c.addresses = d.Client, d.Informers.Networking().V1().ServiceCIDRs().Lister(), d.Informers.Networking().V1().IPAddresses().Lister()
		return r, err
	})
	w.Watch(t, w.Informers.Networking().V1().ServiceCIDRs().Informer())
	add(t, w, "more", "10.9.0.0/24")
	remove(t, w, "more")
	r, err := w.Client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "more", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	retry, ok := c.release(t.Context(), r).(*engine.Retry)
	if !ok || retry.After <= 59*time.Minute {
		t.Errorf("it is looked at again by %v", retry)
	}
}
