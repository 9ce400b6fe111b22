package clusterip_test

import (
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/clusterip"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/internal/serviceip"
	"github.com/peapod/peapod/store/etcd"
)

var web = types.NamespacedName{Namespace: "default", Name: "web"}

// ranges has the server's default ServiceCIDR be these.
func ranges(prefixes ...string) func(*apiserver.Config) {
	return func(c *apiserver.Config) {
		c.ServiceCIDRs = nil
		for _, p := range prefixes {
			c.ServiceCIDRs = append(c.ServiceCIDRs, netip.MustParsePrefix(p))
		}
	}
}

func want(ip string) resource.IPClaim {
	family := corev1.IPv4Protocol
	if strings.Contains(ip, ":") {
		family = corev1.IPv6Protocol
	}
	return resource.IPClaim{Owner: web, Family: family, IP: ip}
}

func addCIDR(t *testing.T, client kubernetes.Interface, name string, cidrs ...string) {
	t.Helper()
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: cidrs}}
	if _, err := client.NetworkingV1().ServiceCIDRs().Create(t.Context(), c, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

func TestByAddress(t *testing.T) {
	s := servertest.Start(t, ranges("10.0.0.0/24", "fd00::/112"))
	a := s.Env().ServiceIPs
	for ip, message := range map[string]string{
		"10.0.0.5":   "",
		"10.0.0.254": "",
		"10.0.0.0":   "the provided network does not match the current range",
		"10.0.0.255": "the provided network does not match the current range",
		"10.0.1.1":   "the provided network does not match the current range",
		"x":          "is not a valid IP",
		"fd00::ffff": "",
		"fd00::":     "the provided network does not match the current range",
	} {
		got, err := a.Allocate(want(ip))
		if message == "" && (err != nil || got != ip) || message != "" && (err == nil || !strings.Contains(err.Error(), message)) {
			t.Errorf("%s: got %s, %v, want %q", ip, got, err, message)
		}
	}
	if _, err := a.Allocate(want("10.0.0.5")); err == nil || err.Error() != "provided IP is already allocated" {
		t.Errorf("twice: %v", err)
	}
	client := s.Client(t)
	ip, err := client.NetworkingV1().IPAddresses().Get(t.Context(), "10.0.0.5", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if by, ok := serviceip.Owner(ip); !ok || by != web || !serviceip.Labelled(ip) || ip.Labels[networkingv1.LabelIPAddressFamily] != "IPv4" {
		t.Errorf("the address is recorded as %v, labels %v", ip.Spec.ParentRef, ip.Labels)
	}
	a.Release(types.NamespacedName{Namespace: "default", Name: "other"}, "10.0.0.5")
	if _, err := a.Allocate(want("10.0.0.5")); err == nil {
		t.Error("it was given back by who does not have it")
	}
	a.Release(web, "10.0.0.5")
	a.Release(web, "None")
	dry := want("10.0.0.5")
	dry.Dry = true
	for _, claim := range []resource.IPClaim{dry, dry, want("10.0.0.5")} {
		if _, err := a.Allocate(claim); err != nil {
			t.Errorf("after release, dry run %t: %v", claim.Dry, err)
		}
	}
	if _, err := a.Allocate(dry); err == nil {
		t.Error("a dry run does not see what is taken")
	}
}

// Every address is handed out once, by concurrent callers, the kept ones last; then the range is full, until another joins.
func TestRunOut(t *testing.T) {
	s := servertest.Start(t, ranges("10.0.0.0/26"))
	client, a := s.Client(t), s.Env().ServiceIPs
	byHand := serviceip.New(netip.MustParseAddr("10.0.0.40"), web)
	byHand.Labels, byHand.Spec.ParentRef = nil, &networkingv1.ParentReference{Group: "example.com", Resource: "gateways", Name: "g"}
	if _, err := client.NetworkingV1().IPAddresses().Create(t.Context(), byHand, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	const usable, kept = 62 - 1, 16
	seen := takeAll(t, usable-kept, a)
	for ip := range seen {
		if netip.MustParseAddr(ip).As4()[3] <= kept {
			t.Errorf("%s was handed out while there were others", ip)
		}
	}
	for range kept {
		if _, err := a.Allocate(want("")); err != nil {
			t.Error(err)
		}
	}
	if _, err := a.Allocate(want("")); err == nil || err.Error() != "range is full" {
		t.Errorf("full: %v", err)
	}
	if _, err := a.Allocate(want("10.0.0.40")); err == nil || err.Error() != "provided IP is already allocated" {
		t.Errorf("what a user has taken: %v", err)
	}
	if _, err := a.Allocate(want("10.9.0.3")); err == nil {
		t.Error("an address of no range")
	}
	addCIDR(t, client, "more", "10.9.0.0/28", "fd09::/64")
	if ip, err := a.Allocate(want("10.9.0.3")); err != nil || ip != "10.9.0.3" {
		t.Errorf("of the new range: %s, %v", ip, err)
	}
	if ip, err := a.Allocate(want("")); err != nil || !strings.HasPrefix(ip, "10.9.0.") {
		t.Errorf("any, of the new range: %s, %v", ip, err)
	}
	if _, err := a.Allocate(want("fd09::1")); err == nil {
		t.Error("an address of a family that the cluster does not have")
	}
	a.Release(web, "10.0.0.41")
	if ip, err := a.Allocate(want("")); err != nil || ip != "10.0.0.41" {
		t.Errorf("the only free one of the default range is 10.0.0.41; got %s, %v", ip, err)
	}
	// A range that is being deleted gives nothing any more.
	c, err := client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "more", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.Finalizers = []string{serviceip.Finalizer}
	if _, err := client.NetworkingV1().ServiceCIDRs().Update(t.Context(), c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := client.NetworkingV1().ServiceCIDRs().Delete(t.Context(), "more", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if ip, err := a.Allocate(want("")); err == nil {
		t.Errorf("%s was handed out of a range that is being deleted", ip)
	}
	if _, err := a.Allocate(want("10.9.0.7")); err == nil {
		t.Error("an address of a range that is being deleted")
	}
}

// takeAll takes n addresses of allocators in turn, at once, and says which.
func takeAll(t *testing.T, n int, allocators ...resource.IPAllocator) map[string]bool {
	t.Helper()
	var mu sync.Mutex
	seen := map[string]bool{}
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() {
			ip, err := allocators[i%len(allocators)].Allocate(want(""))
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[ip] {
				t.Errorf("%s was handed out twice, or %v", ip, err)
			}
			seen[ip] = true
		})
	}
	all.Wait()
	return seen
}

// Two servers on one etcd hand out every address once.
func TestTwoServers(t *testing.T) {
	servers := testserver.RunEtcd(t, nil).Endpoints()
	var both [2]resource.IPAllocator
	for i := range both {
		st, err := etcd.Open(t.Context(), etcd.Config{Servers: servers})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		s := servertest.Start(t, func(c *apiserver.Config) {
			ranges("10.0.0.0/26")(c)
			c.Storage, c.Claims = st.Decorator(), st.Claims()
		})
		both[i] = s.Env().ServiceIPs
	}
	seen := takeAll(t, 62, both[0], both[1])
	if len(seen) != 62 {
		t.Errorf("%d of 62 addresses were handed out", len(seen))
	}
	if _, err := both[1].Allocate(want("")); err == nil || err.Error() != "range is full" {
		t.Errorf("full: %v", err)
	}
}

// A stored Service that has no IPAddress, because its store is of an older version, has one when the server serves.
func TestHeldAtStart(t *testing.T) {
	s := servertest.Start(t, ranges("10.0.0.0/24"))
	client := s.Client(t)
	for i := range 3 {
		svc := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("web-%d", i)},
			Spec: corev1.ServiceSpec{ClusterIP: fmt.Sprintf("10.0.0.%d", 100+i), Ports: []corev1.ServicePort{{Port: 80}}}}
		if _, err := client.CoreV1().Services("default").Create(t.Context(), svc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	err := client.NetworkingV1().IPAddresses().DeleteCollection(t.Context(), metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if err := client.NetworkingV1().ServiceCIDRs().Delete(t.Context(), serviceip.DefaultCIDR, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	s.Stop()
	s = servertest.New(t, s.FS, ranges("10.0.0.0/24"))
	<-s.Ready()
	client = s.Client(t)
	for i := range 3 {
		ip, err := client.NetworkingV1().IPAddresses().Get(t.Context(), fmt.Sprintf("10.0.0.%d", 100+i), metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if by, ok := serviceip.Owner(ip); !ok || by.Name != fmt.Sprintf("web-%d", i) {
			t.Errorf("%s is of %v", ip.Name, by)
		}
	}
	c, err := client.NetworkingV1().ServiceCIDRs().Get(t.Context(), serviceip.DefaultCIDR, metav1.GetOptions{})
	if err != nil || len(c.Spec.CIDRs) != 1 || c.Spec.CIDRs[0] != "10.0.0.0/24" {
		t.Errorf("the default ServiceCIDR is %v, %v", c.Spec.CIDRs, err)
	}
}

// A Service that is not stored takes no address, and one that is deleted has none.
func TestServices(t *testing.T) {
	s := servertest.Start(t, ranges("10.0.0.0/24"))
	client := s.Client(t)
	services, ips := client.CoreV1().Services("default"), client.NetworkingV1().IPAddresses()
	count := func() int {
		t.Helper()
		list, err := ips.List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return len(list.Items)
	}
	svc := func(name string, port int32) *corev1.Service {
		return &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: port}}}}
	}
	for _, bad := range []*corev1.Service{svc("web", 0), svc("No_Name", 80)} {
		if _, err := services.Create(t.Context(), bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
			t.Errorf("%s: %v", bad.Name, err)
		}
	}
	if _, err := services.Create(t.Context(), svc("web", 80), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d addresses are taken by Services that are not there", n)
	}
	got, err := services.Create(t.Context(), svc("web", 80), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := ips.Get(t.Context(), got.Spec.ClusterIP, metav1.GetOptions{}); err != nil {
		t.Error(err)
	}
	if _, err := services.Create(t.Context(), svc("web", 80), metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		t.Error(err)
	}
	if n := count(); n != 1 {
		t.Errorf("%d addresses are taken, want 1", n)
	}
	if err := services.Delete(t.Context(), "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if n := count(); n != 0 {
		t.Errorf("%d addresses are taken after the Service was deleted", n)
	}
}

func TestRanges(t *testing.T) {
	for _, bad := range [][]string{{"10.0.0.0/30"}, {"10.0.0.0/16", "10.1.0.0/16"}, {"10.0.0.0/16", "fd00::/112", "fd01::/112"}} {
		var all []netip.Prefix
		for _, p := range bad {
			all = append(all, netip.MustParsePrefix(p))
		}
		if _, err := clusterip.New(all, nil); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	// Ranges with hardly an address, and with more than a number can count.
	s := servertest.Start(t, ranges("10.0.0.0/29", "fd00::/112"))
	client, a := s.Client(t), s.Env().ServiceIPs
	takeAll(t, 6, a)
	for i, small := range []string{"10.1.0.0/32", "10.2.0.0/31", "fd01::/128"} {
		addCIDR(t, client, fmt.Sprintf("small-%d", i), small)
	}
	if ip, err := a.Allocate(want("")); err == nil {
		t.Errorf("got %s of ranges that have none", ip)
	}
	addCIDR(t, client, "two", "10.3.0.0/30")
	takeAll(t, 2, a)
	addCIDR(t, client, "huge", "fd02::/16")
	if _, err := a.Allocate(want("fd02:1:2:3:4:5:6:7")); err != nil {
		t.Error(err)
	}
	if ip, err := a.Allocate(resource.IPClaim{Owner: web, Family: corev1.IPv6Protocol}); err != nil || !strings.HasPrefix(ip, "fd00::") {
		t.Errorf("the default range comes first; got %s, %v", ip, err)
	}
}
