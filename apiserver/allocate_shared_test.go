package apiserver

import (
	"strings"
	"testing"

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
	ports := sharedPorts{claimer{both[0]}, portRange{utilnet.PortRange{Base: 30000, Size: 18}}}
	take := func(port int32) {
		t.Helper()
		if _, err := ports.Allocate(port); err != nil {
			t.Fatal(err)
		}
	}
	take(30003)
	take(30004)
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
	ports.Release(30004)
	take(30004)
	if err := m.mend(t.Context()); err != nil {
		t.Fatal(err)
	}
	list := taken()
	if _, ok := list["port/30004"]; !ok || len(list) != 1 {
		t.Errorf("after two looks the claims are %v", list)
	}
}
