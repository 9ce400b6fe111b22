package apiserver

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/apimachinery/pkg/util/net"
)

func ips(t *testing.T, prefixes ...string) *ipAllocator {
	t.Helper()
	var all []netip.Prefix
	for _, p := range prefixes {
		all = append(all, netip.MustParsePrefix(p))
	}
	a, err := newIPAllocator(all)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func TestIPsByAddress(t *testing.T) {
	a := ips(t, "10.0.0.0/24", "fd00::/112")
	for ip, want := range map[string]string{
		"10.0.0.5":   "",
		"10.0.0.254": "",
		"10.0.0.0":   "is not in the valid range",
		"10.0.0.255": "is not in the valid range",
		"10.0.1.1":   "is not in the valid range. The range of valid IPs is 10.0.0.0/24",
		"x":          "is not a valid IP",
		"fd00::1":    "is not in the valid range",
	} {
		_, err := a.Allocate(corev1.IPv4Protocol, ip)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", ip, err, want)
		}
	}
	if got, err := a.Allocate(corev1.IPv6Protocol, "fd00::ffff"); err != nil || got != "fd00::ffff" {
		t.Errorf("got %s, %v", got, err)
	}
	if _, err := a.Allocate(corev1.IPv4Protocol, "10.0.0.5"); err == nil || err.Error() != "provided IP is already allocated" {
		t.Errorf("twice: %v", err)
	}
	a.Release("10.0.0.5")
	a.Release("None")
	if _, err := a.Allocate(corev1.IPv4Protocol, "10.0.0.5"); err != nil {
		t.Errorf("after release: %v", err)
	}
}

// Every address is handed out once, by concurrent callers, the kept ones last; then the range is full.
func TestIPsRunOut(t *testing.T) {
	a := ips(t, "10.0.0.0/24")
	const usable, kept = 254, 16
	var mu sync.Mutex
	seen := map[netip.Addr]bool{}
	take := func() {
		ip, err := a.Allocate(corev1.IPv4Protocol, "")
		if err != nil {
			t.Error(err)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		addr := netip.MustParseAddr(ip)
		if seen[addr] {
			t.Errorf("%s was handed out twice", ip)
		}
		seen[addr] = true
	}
	var all sync.WaitGroup
	for range usable - kept {
		all.Go(take)
	}
	all.Wait()
	for addr := range seen {
		if addr.As4()[3] <= kept {
			t.Errorf("%s was handed out while there were others", addr)
		}
	}
	for range kept {
		take()
	}
	if _, err := a.Allocate(corev1.IPv4Protocol, ""); err == nil || err.Error() != "range is full" {
		t.Errorf("got %v", err)
	}
	if _, err := a.Allocate(corev1.IPv6Protocol, ""); err == nil {
		t.Error("an address of a family that is not there")
	}
}

func TestIPRanges(t *testing.T) {
	for _, bad := range [][]string{{"10.0.0.0/30"}, {"10.0.0.0/16", "10.1.0.0/16"}, {"10.0.0.0/16", "fd00::/112", "fd01::/112"}} {
		var all []netip.Prefix
		for _, p := range bad {
			all = append(all, netip.MustParsePrefix(p))
		}
		if _, err := newIPAllocator(all); err == nil {
			t.Errorf("%v was accepted", bad)
		}
	}
	// A /48 is far larger than what can be in use; addresses are taken from its start.
	if ip, err := ips(t, "fd00:1:2::/48").Allocate(corev1.IPv6Protocol, ""); err != nil || !strings.HasPrefix(ip, "fd00:1:2::") {
		t.Errorf("got %s, %v", ip, err)
	}
}

func TestNodePorts(t *testing.T) {
	a := newPortAllocator(utilnet.PortRange{Base: 30000, Size: 2})
	take := func(port int32, want string) int32 {
		t.Helper()
		got, err := a.Allocate(port)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%d: got %v, want %q", port, err, want)
		}
		return got
	}
	take(30000, "")
	take(30000, "provided port is already allocated")
	take(40000, "provided port is not in the valid range. The range of valid ports is 30000-30001")
	if got := take(0, ""); got != 30001 {
		t.Errorf("got %d", got)
	}
	take(0, "range is full")
	a.Release(30000)
	if got := take(0, ""); got != 30000 {
		t.Errorf("got %d", got)
	}
}

// The lower node ports are handed out only where there is no other, as many as upstream keeps.
func TestKeptNodePorts(t *testing.T) {
	for _, c := range []struct{ size, kept int }{{16, 0}, {17, 16}, {512, 16}, {1024, 32}, {2768, 86}, {10000, 128}} {
		a := newPortAllocator(utilnet.PortRange{Base: 30000, Size: c.size})
		for i := range c.size {
			port, err := a.Allocate(0)
			if kept := int(port) < 30000+c.kept; err != nil || kept != (i >= c.size-c.kept) {
				t.Fatalf("of %d ports number %d to be handed out is %d, %v", c.size, i, port, err)
			}
		}
	}
}
