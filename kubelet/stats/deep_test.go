package stats

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/removetree"
)

// TestDeep: a container that nests directories without end does not have the node remember their paths; what it has elsewhere counts.
func TestDeep(t *testing.T) {
	dir, err := os.MkdirTemp("", "deep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the path is too long for the test's own removal
		if err := removetree.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(err)
	const length = 255
	for range 500 {
		name := strings.Repeat("n", length)
		must(unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(err)
		must(unix.Close(at))
		at = next
	}
	must(unix.Close(at))
	must(os.WriteFile(dir+"/z", make([]byte, 10_000), 0o600)) // it comes after what is deep
	got, err := Measure(t.Context(), dir)
	if most := uint64(longestPath/length + 3); err != nil || got.Inodes > most || got.Bytes < 10_000 {
		t.Errorf("%+v, %v: want %d inodes at most, and the file", got, err, most)
	}
}
