package apiserver

import (
	"strings"
	"testing"

	utilnet "k8s.io/apimachinery/pkg/util/net"
)

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
