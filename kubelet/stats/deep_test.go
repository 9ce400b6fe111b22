package stats

import (
	"os"
	"testing"

	"github.com/peapod/peapod/internal/removetree/removetreetest"
)

// TestDeep: a container that nests directories without end does not have the node remember their paths; what it has elsewhere counts.
func TestDeep(t *testing.T) {
	dir := removetreetest.Deep(t, 500)
	if err := os.WriteFile(dir+"/z", make([]byte, 10_000), 0o600); err != nil { // it comes after what is deep
		t.Fatal(err)
	}
	got, err := Measure(t.Context(), dir)
	if most := uint64(longestPath/removetreetest.NameLength + 3); err != nil || got.Inodes > most || got.Bytes < 10_000 {
		t.Errorf("%+v, %v: want %d inodes at most, and the file", got, err, most)
	}
}
