package nft

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
)

// chainsInKernel are the names of the table's chains.
func chainsInKernel(t *testing.T, table string) []string {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	all, err := conn.ListChainsOfTableFamily(nftables.TableFamilyINet)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, c := range all {
		if c.Table.Name == table {
			names = append(names, c.Name)
		}
	}
	slices.Sort(names)
	return names
}

// Chains come with what leads to them, and go after it, in one transaction.
func TestUpdateChains(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var a Applier
	t.Cleanup(func() {
		if err := a.Delete("update_test"); err != nil {
			t.Error(err)
		}
	})
	if err := a.Update("update_test", Update{}); !errors.Is(err, ErrNotApplied) {
		t.Errorf("update of a table that is not there: %v", err)
	}
	to := func(chain string) Value { return Value{Verdict: expr.VerdictGoto, Chain: chain} }
	jump := func(chain string) []Rule { return []Rule{{Exprs: Verdict(expr.VerdictJump, chain)}} }
	first := &Table{Name: "update_test",
		Chains: []Chain{{Name: "entry", Rules: []Rule{{Exprs: Exprs([]expr.Any{Protocol(Reg0)}, To(Reg0, "map"))}}}},
		Sets:   []Set{{Name: "map", Key: []nftables.SetDatatype{nftables.TypeInetProto}, Verdicts: true, Elements: map[string]Value{}}},
	}
	if err := a.Apply(first); err != nil {
		t.Fatal(err)
	}
	update := func(u Update, want ...string) {
		t.Helper()
		if err := a.Update("update_test", u); err != nil {
			t.Fatal(err)
		}
		if got := chainsInKernel(t, "update_test"); !slices.Equal(got, want) {
			t.Errorf("chains are %v, want %v", got, want)
		}
	}
	one, two := "\x06", "\x11"
	update(Update{
		Come:     []Chain{{Name: "a", Rules: jump("b")}, {Name: "b"}},
		Elements: []Delta{{Set: "map", Come: map[string]Value{one: to("a"), two: to("b")}}},
	}, "a", "b", "entry")
	// One moves to a new chain, the other's chain goes with what it leads to.
	update(Update{
		Come:     []Chain{{Name: "c"}},
		Elements: []Delta{{Set: "map", Gone: []string{one, two}, Come: map[string]Value{two: to("c")}}},
		Gone:     []string{"b", "a"},
	}, "c", "entry")
	// A chain that is still in use cannot go; nothing has changed then.
	if err := a.Update("update_test", Update{Gone: []string{"c"}}); err == nil {
		t.Error("a chain that an element leads to was removed")
	}
	if err := a.Update("update_test", Update{Gone: []string{"never"}}); err == nil {
		t.Error("a chain that is not there was removed")
	}
	if err := a.Update("update_test", Update{Come: []Chain{{Name: "c"}}}); err == nil {
		t.Error("a chain was made twice")
	}
	update(Update{Elements: []Delta{{Set: "map", Gone: []string{two}}}, Gone: []string{"c"}}, "entry")
	// What updates have made is what Apply goes on from.
	if err := a.Apply(first); err != nil {
		t.Fatal(err)
	}
	if c, err := diff(a.applied["update_test"], first); err != nil || len(c) > 0 {
		t.Errorf("after updates and back, %d changes are left, %v", len(c), err)
	}
}
