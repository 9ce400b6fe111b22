package clusterip

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/serviceip"
	"github.com/peapod/peapod/test/controltest"
)

const ns = controltest.Namespace

// later runs the controller when requests that were under way have long ended.
func later(d engine.Deps) (engine.Runner, error) {
	d.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")}
	return newController(d, clocktesting.NewFakePassiveClock(time.Now().Add(2*grace)))
}

// start runs the controller on a server in which something may have gone wrong already, later.
func start(t *testing.T, s *servertest.Server) *controltest.World {
	t.Helper()
	return run(t, s, later)
}

func run(t *testing.T, s *servertest.Server, controller controltest.New) *controltest.World {
	t.Helper()
	w := controltest.StartOn(t, s, controller)
	w.Watch(t, w.Informers.Networking().V1().IPAddresses().Informer())
	w.Watch(t, w.Informers.Networking().V1().ServiceCIDRs().Informer())
	w.Watch(t, w.Informers.Core().V1().Events().Informer())
	return w
}

func service(t *testing.T, client kubernetes.Interface, name, ip string) *corev1.Service {
	t.Helper()
	svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}}}}
	svc, err := client.CoreV1().Services(ns).Create(t.Context(), svc, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return svc
}

func forget(t *testing.T, client kubernetes.Interface, ip string) {
	t.Helper()
	if err := client.NetworkingV1().IPAddresses().Delete(t.Context(), ip, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
}

func take(t *testing.T, client kubernetes.Interface, ip *networkingv1.IPAddress) {
	t.Helper()
	if _, err := client.NetworkingV1().IPAddresses().Create(t.Context(), ip, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func of(service string) types.NamespacedName {
	return types.NamespacedName{Namespace: ns, Name: service}
}

// awaitOwner waits until the address is recorded as the Service's.
func awaitOwner(t *testing.T, w *controltest.World, ip, service string) {
	t.Helper()
	w.Await(t, ip+" to be of "+service, func() bool {
		got, err := w.Client.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{})
		if err != nil {
			return false
		}
		by, ok := serviceip.Owner(got)
		return ok && by == of(service) && serviceip.Labelled(got)
	})
}

func awaitFree(t *testing.T, w *controltest.World, ip string) {
	t.Helper()
	w.Await(t, ip+" to be free", func() bool {
		_, err := w.Client.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
}

// awaitEvent waits for a warning about an object of that name.
func awaitEvent(t *testing.T, w *controltest.World, about, reason, message string) {
	t.Helper()
	w.Await(t, "event "+reason+" of "+about, func() bool {
		list, err := w.Client.CoreV1().Events("").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range list.Items {
			if e.InvolvedObject.Name == about && e.Reason == reason && e.Type == corev1.EventTypeWarning && strings.Contains(e.Message, message) {
				return true
			}
		}
		return false
	})
}

// What a user deletes or changes is made anew.
func TestLost(t *testing.T) {
	w := run(t, servertest.Start(t, nil), New)
	svc := service(t, w.Client, "web", "")
	ip := svc.Spec.ClusterIP
	forget(t, w.Client, ip)
	awaitOwner(t, w, ip, "web")
	awaitEvent(t, w, "web", "ClusterIPNotAllocated", "Cluster IP [IPv4]: "+ip+" is not allocated; repairing")
	got, err := w.Client.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	was := got.UID
	got.Labels = nil
	if _, err := w.Client.NetworkingV1().IPAddresses().Update(t.Context(), got, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "labels", func() bool {
		got, err := w.Client.NetworkingV1().IPAddresses().Get(t.Context(), ip, metav1.GetOptions{})
		return err == nil && got.UID != was && serviceip.Labelled(got)
	})
}

func TestWrongReferences(t *testing.T) {
	s := servertest.Start(t, nil)
	client := s.Client(t)
	for i, parent := range []*networkingv1.ParentReference{
		{Group: "example.com", Resource: "gateways", Name: "g"},
		{Resource: "services", Namespace: ns, Name: "nobody"},
	} {
		ip := fmt.Sprintf("10.96.7.%d", i)
		service(t, client, fmt.Sprintf("web-%d", i), ip)
		forget(t, client, ip)
		wrong := serviceip.New(netip.MustParseAddr(ip), of("x"))
		wrong.Spec.ParentRef = parent
		take(t, client, wrong)
	}
	// The allocator's label on what is no Service's, and one that its Service does not have.
	modified := serviceip.New(netip.MustParseAddr("10.96.7.20"), of("x"))
	modified.Spec.ParentRef = &networkingv1.ParentReference{Group: "example.com", Resource: "gateways", Name: "g"}
	take(t, client, modified)
	take(t, client, serviceip.New(netip.MustParseAddr("10.96.7.21"), of("web-0")))
	mine := modified.DeepCopy()
	mine.Name, mine.Labels = "10.96.7.22", nil
	take(t, client, mine)

	w := start(t, s)
	for i := range 2 {
		ip, name := fmt.Sprintf("10.96.7.%d", i), fmt.Sprintf("web-%d", i)
		awaitOwner(t, w, ip, name)
		// The address may be cleaned up before its Service is looked at, which then has none.
		awaitEvent(t, w, name, "ClusterIPNotAllocated", "; repairing")
	}
	awaitFree(t, w, "10.96.7.20")
	awaitEvent(t, w, "10.96.7.20", "IPAddressNotAllocated", "appears to have been modified")
	awaitFree(t, w, "10.96.7.21")
	awaitEvent(t, w, "10.96.7.21", "IPAddressWrongReference", "for Service default/web-0 has a wrong reference; cleaning up")
	if _, err := w.Client.NetworkingV1().IPAddresses().Get(t.Context(), "10.96.7.22", metav1.GetOptions{}); err != nil {
		t.Errorf("what a user has taken: %v", err)
	}
}

func TestOneAddressTwice(t *testing.T) {
	s := servertest.Start(t, nil)
	client := s.Client(t)
	service(t, client, "older", "10.96.7.7")
	forget(t, client, "10.96.7.7")
	service(t, client, "newer", "10.96.7.7")
	w := start(t, s)
	awaitEvent(t, w, "older", "ClusterIPAlreadyAllocated", "Cluster IP [IPv4]:10.96.7.7 was assigned to multiple services; please recreate service")
	awaitOwner(t, w, "10.96.7.7", "newer")
	if err := w.Client.CoreV1().Services(ns).Delete(t.Context(), "newer", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitOwner(t, w, "10.96.7.7", "older")
}

// A Service whose address is of no range is told so, and has it again when a range comes that has.
func TestOutOfRange(t *testing.T) {
	s := servertest.Start(t, nil)
	client := s.Client(t)
	more := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: "more"}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: []string{"10.9.0.0/24"}}}
	ranges := client.NetworkingV1().ServiceCIDRs()
	if _, err := ranges.Create(t.Context(), more, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	service(t, client, "web", "10.9.0.9")
	if err := ranges.Delete(t.Context(), "more", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	forget(t, client, "10.9.0.9")
	w := start(t, s)
	awaitEvent(t, w, "web", "ClusterIPOutOfRange", "Cluster IP [IPv4]: 10.9.0.9 is not within any configured Service CIDR; please recreate service")
	if _, err := ranges.Create(t.Context(), more, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	awaitOwner(t, w, "10.9.0.9", "web")
}

func TestDefault(t *testing.T) {
	w := start(t, servertest.Start(t, nil))
	ranges := w.Client.NetworkingV1().ServiceCIDRs()
	was, err := ranges.Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := ranges.Delete(t.Context(), "kubernetes", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.Await(t, "the default ServiceCIDR to be made anew", func() bool {
		is, err := ranges.Get(t.Context(), "kubernetes", metav1.GetOptions{})
		return err == nil && is.UID != was.UID && len(is.Spec.CIDRs) == 1 && is.Spec.CIDRs[0] == "10.96.0.0/16"
	})
}

func TestDefaultIsAnother(t *testing.T) {
	w := start(t, servertest.Start(t, func(c *apiserver.Config) { c.ServiceCIDRs = []netip.Prefix{netip.MustParsePrefix("10.97.0.0/16")} }))
	awaitEvent(t, w, "kubernetes", "KubernetesDefaultServiceCIDRInconsistent",
		"The default ServiceCIDR [10.97.0.0/16] does not match the controller flag configurations [10.96.0.0/16]")
}
