package volume

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/removetree"
)

// TestGroupOfDeepVolume: a volume in which somebody nested directories without end is refused, as by Kubernetes, and costs no memory.
func TestGroupOfDeepVolume(t *testing.T) {
	dir, err := os.MkdirTemp("", "deep")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { // the path is too long for the test's own removal
		if err := removetree.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	root, err := os.OpenRoot(dir)
	if err != nil {
		t.Fatal(err)
	}
	name := strings.Repeat("n", 255)
	for range 20 {
		if err := root.Mkdir(name, 0o755); err != nil {
			t.Fatal(err)
		}
		below, err := root.OpenRoot(name)
		if err != nil {
			t.Fatal(err)
		}
		root.Close()
		root = below
	}
	root.Close()
	if err := ownTree(dir, os.Getgid(), nil); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("error %v", err)
	}
}
