package nodeipam

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/peapod/peapod/controllers/engine"
)

func TestFreeParts(t *testing.T) {
	a := &allocator{d: engine.Deps{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/22")}}
	taken := map[netip.Prefix]bool{}
	take := func() string {
		p, err := a.free(taken)
		if errors.Is(err, errFull) {
			return "full"
		}
		taken[p] = true
		return p.String()
	}
	for _, want := range []string{"10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24", "full"} {
		if got := take(); got != want {
			t.Fatalf("next part is %s, want %s", got, want)
		}
	}
	// What has just been given back is not the next to be given out.
	delete(taken, netip.MustParsePrefix("10.244.1.0/24"))
	delete(taken, netip.MustParsePrefix("10.244.3.0/24"))
	if got := take(); got != "10.244.1.0/24" {
		t.Errorf("after the end comes %s, want the beginning", got)
	}
	for _, i := range []uint32{1, 3} {
		if got := index(a.d.ClusterCIDR, part(a.d.ClusterCIDR, i)); got != i {
			t.Errorf("part %d has index %d", i, got)
		}
	}
	one := &allocator{d: engine.Deps{ClusterCIDR: netip.MustParsePrefix("10.244.0.0/24")}}
	if _, err := one.free(nil); !errors.Is(err, errFull) {
		t.Errorf("a network of one part has another: %v", err)
	}
}
