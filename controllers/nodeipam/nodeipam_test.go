package nodeipam

import (
	"errors"
	"net/netip"
	"testing"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/cidrs"
)

func TestFreeParts(t *testing.T) {
	a := &allocator{d: engine.Deps{ClusterCIDRs: cidrs.Of(netip.MustParsePrefix("10.244.0.0/22"))}}
	taken := map[netip.Prefix]bool{}
	take := func() string {
		l, err := a.free(taken)
		if errors.Is(err, errFull) {
			return "full"
		}
		taken[l.First()] = true
		return l.String()
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
		if got := a.index(part(a.d.ClusterCIDRs.First(), i)); got != i {
			t.Errorf("part %d has index %d", i, got)
		}
	}
	one := &allocator{d: engine.Deps{ClusterCIDRs: cidrs.Of(netip.MustParsePrefix("10.244.0.0/24"))}}
	if _, err := one.free(nil); !errors.Is(err, errFull) {
		t.Errorf("a network of one part has another: %v", err)
	}
}

// TestPartsOfTwoFamilies: a node gets a part of each, and none that another has of either.
func TestPartsOfTwoFamilies(t *testing.T) {
	networks, err := cidrs.Parse("10.244.0.0/16,fd00:10:244::/62")
	if err != nil {
		t.Fatal(err)
	}
	a := &allocator{d: engine.Deps{ClusterCIDRs: networks}}
	taken := map[netip.Prefix]bool{netip.MustParsePrefix("fd00:10:244:2::/64"): true}
	for _, want := range []string{"10.244.1.0/24,fd00:10:244:1::/64", "10.244.3.0/24,fd00:10:244:3::/64"} {
		got, err := a.free(taken)
		if err != nil || got.String() != want {
			t.Errorf("the next part is %v, %v; want %s", got, err, want)
		}
		for _, p := range got {
			taken[p] = true
		}
	}
	if got, err := a.free(taken); !errors.Is(err, errFull) {
		t.Errorf("the smaller network has another part: %v, %v", got, err)
	}
	for i, p := range []string{"fd00:10:244::/64", "fd00:10:244:1::/64"} {
		if got := a.index(netip.MustParsePrefix(p)); got != uint32(i) {
			t.Errorf("%s has index %d", p, got)
		}
	}
}
