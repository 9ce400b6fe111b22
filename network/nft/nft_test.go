package nft

import (
	"encoding/binary"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"syscall"
	"testing"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// TestMain runs the tests in a network namespace of their own.
func TestMain(m *testing.M) {
	const inside = "NFT_TEST_INSIDE"
	if os.Getenv(inside) != "" || os.Geteuid() != 0 {
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

func key(i int) string { return Key(binary.BigEndian.AppendUint32(nil, uint32(i))) }

func elements(n int) map[string]Value {
	m := map[string]Value{}
	for i := range n {
		m[key(i)] = Value{Data: Key(binary.BigEndian.AppendUint32(nil, uint32(i+1)))}
	}
	return m
}

func sample(m map[string]Value) *Table {
	drop := Rule{Comment: "drop", Exprs: Exprs(Is4(), Verdict(expr.VerdictDrop, ""))}
	return &Table{
		Name: "sample",
		Chains: []Chain{
			{Name: "base", Hook: &Hook{nftables.ChainTypeFilter, *nftables.ChainHookInput, *nftables.ChainPriorityFilter},
				Rules: []Rule{{Exprs: Verdict(expr.VerdictJump, "other")}}},
			{Name: "other", Rules: []Rule{drop}},
		},
		Sets: []Set{{Name: "map", Key: []nftables.SetDatatype{nftables.TypeIPAddr}, Data: []nftables.SetDatatype{nftables.TypeIPAddr}, Elements: m}},
	}
}

func kinds(t *testing.T, old, desired *Table) string {
	t.Helper()
	changes, err := diff(old, desired)
	if err != nil {
		t.Fatal(err)
	}
	s := ""
	for _, c := range changes {
		s += fmt.Sprintf("%d(%d) ", c.kind, len(c.keys))
	}
	return s
}

func TestDiff(t *testing.T) {
	base := sample(elements(3))
	changed := elements(3)
	changed[key(0)] = Value{Data: key(99)}
	delete(changed, key(1))
	changed[key(7)] = Value{Data: key(7)}
	otherRules := sample(elements(3))
	otherRules.Chains[1].Rules = append(otherRules.Chains[1].Rules, Rule{Comment: "more", Exprs: Verdict(expr.VerdictReturn, "")})
	otherShape := sample(elements(3))
	otherShape.Chains[0].Hook.Priority = 5
	otherComment := sample(elements(3))
	otherComment.Chains[1].Rules[0].Comment = "else"
	for _, tc := range []struct {
		name         string
		old, desired *Table
		want         string
	}{
		{"nothing", base, sample(elements(3)), ""},
		{"unknown", nil, base, fmt.Sprintf("%d(0) ", replaceTable)},
		{"gone", base, nil, fmt.Sprintf("%d(0) ", deleteTable)},
		{"elements", base, sample(changed), fmt.Sprintf("%d(2) %d(2) ", deleteElements, addElements)},
		{"rules", base, otherRules, fmt.Sprintf("%d(0) ", replaceRules)},
		{"comment", base, otherComment, fmt.Sprintf("%d(0) ", replaceRules)},
		{"hook", base, otherShape, fmt.Sprintf("%d(0) ", replaceTable)},
	} {
		if got := kinds(t, tc.old, tc.desired); got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// inKernel reads the map of the sample table back.
func inKernel(t *testing.T) map[string]Value {
	t.Helper()
	conn, err := nftables.New()
	if err != nil {
		t.Fatal(err)
	}
	set, err := conn.GetSetByName(&nftables.Table{Name: "sample", Family: nftables.TableFamilyINet}, "map")
	if err != nil {
		t.Fatal(err)
	}
	list, err := conn.GetSetElements(set)
	if err != nil {
		t.Fatal(err)
	}
	m := map[string]Value{}
	for _, e := range list {
		m[string(e.Key)] = Value{Data: string(e.Val)}
	}
	return m
}

func TestApply(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	var a Applier
	apply := func(m map[string]Value) {
		t.Helper()
		if err := a.Apply(sample(m)); err != nil {
			t.Fatal(err)
		}
		if got := inKernel(t); !maps.Equal(got, m) {
			t.Fatalf("the kernel has %d elements, not the %d described", len(got), len(m))
		}
	}
	apply(elements(10000))
	m := elements(10000)
	delete(m, key(5))
	m[key(6)] = Value{Data: key(6)}
	apply(m)
	apply(elements(3))
	apply(nil)
	apply(elements(3))

	// A description that was applied may be changed by its owner.
	shared := elements(2)
	apply(shared)
	shared[key(8)] = Value{Data: key(8)}
	apply(shared)

	// Somebody removes the table, which we notice when a change of it fails.
	var other Applier
	if err := other.Delete("sample"); err != nil {
		t.Fatal(err)
	}
	apply(elements(4))

	bad := sample(map[string]Value{"short": {}})
	if err := a.Apply(bad); err == nil {
		t.Error("an element of the wrong size is accepted")
	}
	// A transaction that the kernel refuses changes nothing.
	wrong := sample(elements(1))
	wrong.Chains[1].Rules = []Rule{{Exprs: Verdict(expr.VerdictJump, "nowhere")}}
	if err := a.Apply(wrong); err == nil {
		t.Error("a jump to a chain that is not there is accepted")
	}
	if got := inKernel(t); len(got) != 4 {
		t.Errorf("a refused transaction left %d elements", len(got))
	}
	for range 2 {
		if err := a.Delete("sample"); err != nil {
			t.Fatal(err)
		}
	}
	if names, err := Names("sam"); err != nil || len(names) != 0 {
		t.Errorf("left are %v, %v", names, err)
	}
}
