package apiserver

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"

	"github.com/peapod/peapod/store/etcd"
)

// claims are those of two servers on one etcd.
func claims(t *testing.T) [2]*etcd.Claims {
	t.Helper()
	servers := testserver.RunEtcd(t, nil).Endpoints()
	var both [2]*etcd.Claims
	for i := range both {
		s, err := etcd.Open(t.Context(), etcd.Config{Servers: servers})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
		both[i] = s.Claims()
	}
	return both
}

// Two servers hand out every address of a range once, the kept ones last, then both say that it is full.
func TestSharedIPsRunOut(t *testing.T) {
	both := claims(t)
	var servers [2]sharedIPs
	for i := range servers {
		servers[i] = sharedIPs{claimer{both[i]}, ips(t, "10.0.0.0/26")}
	}
	const usable, kept = 62, 16
	var mu sync.Mutex
	seen := map[string]bool{}
	var all sync.WaitGroup
	for i := range usable - kept {
		all.Go(func() {
			ip, err := servers[i%2].Allocate(corev1.IPv4Protocol, "")
			mu.Lock()
			defer mu.Unlock()
			if err != nil || seen[ip] {
				t.Errorf("%s was handed out twice, or %v", ip, err)
			}
			seen[ip] = true
		})
	}
	all.Wait()
	for ip := range seen {
		if netip.MustParseAddr(ip).As4()[3] <= kept {
			t.Errorf("%s was handed out while there were others", ip)
		}
		if _, err := servers[1].Allocate(corev1.IPv4Protocol, ip); err == nil || err.Error() != "provided IP is already allocated" {
			t.Errorf("%s again: %v", ip, err)
		}
	}
	for range kept {
		if _, err := servers[0].Allocate(corev1.IPv4Protocol, ""); err != nil {
			t.Error(err)
		}
	}
	if _, err := servers[1].Allocate(corev1.IPv4Protocol, ""); err == nil || err.Error() != "range is full" {
		t.Errorf("full: %v", err)
	}
	servers[0].Release("10.0.0.40")
	if ip, err := servers[1].Allocate(corev1.IPv4Protocol, ""); err != nil || ip != "10.0.0.40" {
		t.Errorf("the only free one is 10.0.0.40; got %s, %v", ip, err)
	}
	if _, err := servers[0].Allocate(corev1.IPv4Protocol, "10.0.1.1"); err == nil || !strings.Contains(err.Error(), "is not in the valid range") {
		t.Error(err)
	}
	if _, err := servers[0].Allocate(corev1.IPv6Protocol, ""); err == nil {
		t.Error("an address of a family that is not there")
	}
}

func TestSharedNodePorts(t *testing.T) {
	both := claims(t)
	ports := portRange{utilnet.PortRange{Base: 30000, Size: 18}}
	one, two := sharedPorts{claimer{both[0]}, ports}, sharedPorts{claimer{both[1]}, ports}
	if got, err := one.Allocate(30000); err != nil || got != 30000 {
		t.Fatal(got, err)
	}
	if _, err := two.Allocate(30000); err == nil || err.Error() != "provided port is already allocated" {
		t.Error(err)
	}
	seen := map[int32]bool{30000: true}
	for i := range 17 {
		got, err := []sharedPorts{one, two}[i%2].Allocate(0)
		if err != nil || seen[got] || (got < 30016) != (i >= 2) { // The first 16 are kept.
			t.Errorf("number %d to be handed out is %d, %v", i, got, err)
		}
		seen[got] = true
	}
	if _, err := one.Allocate(0); err == nil || err.Error() != "range is full" {
		t.Error(err)
	}
	if _, err := one.Allocate(29999); err == nil || !strings.Contains(err.Error(), "is not in the valid range") {
		t.Error(err)
	}
	two.Release(30017)
	if got, err := one.Allocate(0); err != nil || got != 30017 {
		t.Error(got, err)
	}
}

// What a server claimed and then did not store, because it was killed, is free again once two looks have found no holder.
func TestLooseClaimsAreMended(t *testing.T) {
	both := claims(t)
	a := sharedIPs{claimer{both[0]}, ips(t, "10.0.0.0/26")}
	for _, ip := range []string{"10.0.0.20", "10.0.0.21"} {
		if _, err := a.Allocate(corev1.IPv4Protocol, ip); err != nil {
			t.Fatal(err)
		}
	}
	m := &mender{claims: both[1]}
	if err := m.mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	taken := func() map[string]int64 {
		list, err := both[0].List(t.Context(), "")
		if err != nil {
			t.Fatal(err)
		}
		return list
	}
	if n := len(taken()); n != 2 {
		t.Fatalf("%d claims are left after one look", n)
	}
	// It is given back and claimed by another meanwhile: that claim is young.
	a.Release("10.0.0.21")
	if _, err := a.Allocate(corev1.IPv4Protocol, "10.0.0.21"); err != nil {
		t.Fatal(err)
	}
	if err := m.mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := taken()
	if _, ok := list["ip/10.0.0.21"]; !ok || len(list) != 1 {
		t.Errorf("after two looks the claims are %v", list)
	}
}
