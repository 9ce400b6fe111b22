package cluster

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/peapod/peapod/test/e2e/cluster"
)

// TestMakeRun is what `make run` does once peapod is built, on a machine of its own, and again after `make stop`.
func TestMakeRun(t *testing.T) {
	t.Parallel()
	root, err := cluster.Root()
	must(t, err)
	m := newMachine(t, newWire(t), binaryFor(t), "one", 1)
	for range 2 {
		out, err := m.command(within(t), filepath.Join(root, "examples", "run.sh"), m.binary).CombinedOutput()
		if err != nil {
			t.Fatalf("run.sh: %v: %s", err, out)
		}
		for _, want := range []string{greeting("hello"), "The cluster runs in the background"} {
			if !strings.Contains(string(out), want) {
				t.Errorf("no %q in %s", want, out)
			}
		}
		m.do("kill", "--yes")
	}
}
