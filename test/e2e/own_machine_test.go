package e2e

import (
	"fmt"
	"maps"
	"slices"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// inventory is what the instance has on this machine that comes and goes with Pods.
func (o *own) inventory() cluster.Inventory {
	o.t.Helper()
	i, err := o.Place().Inventory()
	if err != nil {
		o.t.Fatal(err)
	}
	return i
}

// wantContainers waits until exactly these containers have processes, one each: those of Pods that have just gone may have some
// for a moment.
func (o *own) wantContainers(want map[string]bool) {
	o.t.Helper()
	ids := slices.Sorted(maps.Keys(want))
	o.awaitMachine("containers with a process, once for each, and number of interfaces", fmt.Sprint(ids, len(ids)), func(i cluster.Inventory) string {
		return fmt.Sprint(i.Containers, len(i.Interfaces))
	})
}

// wantInventory waits until the machine is as it was, which it may be a moment after the API says that Pods are gone.
func (o *own) wantInventory(want cluster.Inventory) {
	o.t.Helper()
	words := func(i cluster.Inventory) string { return fmt.Sprintf("%+v", i) }
	o.awaitMachine("what is on the machine", words(want), words)
}

// awaitMachine waits until the words for what there is are as wanted.
func (o *own) awaitMachine(what, want string, words func(cluster.Inventory) string) {
	o.t.Helper()
	err := o.Place().Await(within(o.t, patience), func() (string, string, error) {
		i, err := o.Place().Inventory()
		return words(i), want, err
	})
	if err != nil {
		o.t.Errorf("%s: %v", what, err)
	}
}
