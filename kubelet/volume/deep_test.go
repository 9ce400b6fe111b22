package volume

import (
	"errors"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/removetree/removetreetest"
)

// TestGroupOfDeepVolume: a volume in which somebody nested directories without end is refused, as by Kubernetes, and costs no memory.
func TestGroupOfDeepVolume(t *testing.T) {
	if err := ownTree(removetreetest.Deep(t, 20), os.Getgid(), nil); !errors.Is(err, unix.ENAMETOOLONG) {
		t.Errorf("error %v", err)
	}
}
