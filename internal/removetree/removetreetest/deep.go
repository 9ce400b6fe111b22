// Package removetreetest makes directories as deep as a container may make them.
package removetreetest

import (
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/removetree"
)

// NameLength is how long the names of the directories are, the longest that there may be.
const NameLength = 255

// Deep makes a directory with so many directories, one in the other. Their path is longer than a test's own removal could take; they are
// removed when the test ends.
func Deep(t *testing.T, depth int) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "deep")
	must(t, err)
	t.Cleanup(func() {
		if err := removetree.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	at, err := unix.Open(dir, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	name := strings.Repeat("n", NameLength)
	for range depth {
		must(t, unix.Mkdirat(at, name, 0o755))
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		must(t, unix.Close(at))
		at = next
	}
	must(t, unix.Close(at))
	return dir
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
