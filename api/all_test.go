package api

import (
	"slices"
	"testing"

	"github.com/peapod/peapod/api/resource"
)

// Each kind must be complete enough to be told from the others, found and printed.
func TestKindsAreDeclaredWhole(t *testing.T) {
	kinds := map[string]bool{}
	names := map[string]string{}
	for i, d := range All() {
		if kinds[d.GVK.String()] {
			t.Errorf("%s is declared twice", d.GVK)
		}
		kinds[d.GVK.String()] = true
		if d.Virtual != nil {
			continue
		}
		if d.NewList == nil || d.NewList() == nil {
			t.Errorf("%s has no list", d.GVK)
		}
		if d.AliasOf != nil {
			if !slices.ContainsFunc(All()[:i], func(k *resource.Declaration) bool { return k.GVK == d.AliasOf.GVK }) {
				t.Errorf("%s comes before what it is an alias of", d.GVK)
			}
			if d.Convert == nil {
				t.Errorf("%s has no conversion", d.GVK)
			}
			continue
		}
		if d.Behaviour.Row == nil {
			// Printed by name and creation time, as by Kubernetes.
			if d.GVK.Kind != "LimitRange" && d.GVK.Kind != "CSIStorageCapacity" {
				t.Errorf("%s has no columns", d.GVK)
			}
			continue
		}
		cells, err := d.Behaviour.Row(d.New())
		if err != nil || len(cells) != len(d.Behaviour.Columns()) {
			t.Errorf("%s prints %d cells in %d columns: %v", d.GVK, len(cells), len(d.Behaviour.Columns()), err)
		}
		for _, c := range d.Behaviour.Columns() {
			if c.Description == "" {
				t.Errorf("%s: column %s has no description", d.GVK, c.Name)
			}
		}
		for _, name := range append(d.ShortNames, d.Plural, d.Singular) {
			if other, taken := names[name]; taken && other != d.GVK.String() {
				t.Errorf("%s and %s are both called %s", d.GVK, other, name)
			}
			names[name] = d.GVK.String()
		}
	}
}
