package e2e

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
)

// A data directory whose store is gone, as where a mount is missing, is not begun anew: that would end the Pods. They run on, and are
// taken over when the store is back.
func TestStoreIsGone(t *testing.T) {
	t.Parallel()
	o := newOwn(t)
	s := o.space()
	s.apply(counter)
	s.ready("counter")
	before := only(t, s.get("counter"))
	if err := o.Stop(); err != nil {
		t.Fatal(err)
	}
	store, aside := filepath.Join(o.Instance.DataDir, "store"), filepath.Join(o.Dir, "store")
	if err := os.Rename(store, aside); err != nil {
		t.Fatal(err)
	}
	start := []string{"server", "--port", strconv.Itoa(o.Port)}
	verb(t, o.Cluster, "", start...).want(t, "start without a store", 1, store+" is gone or empty", "backup", "peapod uninstall")
	if err := os.Mkdir(store, 0o700); err != nil {
		t.Fatal(err)
	}
	verb(t, o.Cluster, "", start...).want(t, "start with an empty store", 1, store+" is gone or empty")
	if left, err := os.ReadDir(store); err != nil || len(left) > 0 {
		t.Errorf("something was made in the mount point: %v, %v", left, err)
	}
	if err := os.Remove(store); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(aside, store); err != nil {
		t.Fatal(err)
	}
	o.restart()
	s.survived(o, "counter", before)
}
