package snapshot_test

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/snapshot"
)

// firstID is where the IDs of userNamespace begin on the machine.
const firstID = 20 * 65536

// userNamespace makes a user namespace that lives until the test ends.
func userNamespace(t *testing.T) *os.File {
	t.Helper()
	ids := []syscall.SysProcIDMap{{HostID: firstID, Size: 65536}}
	cmd := exec.Command("/bin/cat")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	input, err := cmd.StdinPipe()
	must(t, err)
	must(t, cmd.Start())
	f, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", cmd.Process.Pid))
	must(t, input.Close())
	must(t, cmd.Wait())
	must(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

func owned(uid, gid uint32) (uint32, uint32, error) { return firstID + uid, firstID + gid, nil }

func expectOwner(t *testing.T, path string, uid, gid uint32) {
	t.Helper()
	var st unix.Stat_t
	must(t, unix.Lstat(path, &st))
	if st.Uid != uid || st.Gid != gid {
		t.Errorf("%s belongs to %d:%d, want %d:%d", path, st.Uid, st.Gid, uid, gid)
	}
}

// TestMapped: a container of a user namespace sees the owners that the image says, also of an image with more layers than a page of
// mount options has room for; what it writes is the machine's IDs; the layers stay as they are.
func TestMapped(t *testing.T) {
	sn, err := overlay.NewSnapshotter(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, sn.Close()) })
	const depth = 80
	parent := ""
	for i := range depth {
		name := fmt.Sprintf("layer-%d", i)
		mounts, err := sn.Prepare(t.Context(), "making "+name, parent)
		must(t, err)
		dir := mounts[0].Source
		for _, option := range mounts[0].Options {
			if upper, ok := strings.CutPrefix(option, "upperdir="); ok {
				dir = upper
			}
		}
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(name), 0o600))
		must(t, os.Lchown(filepath.Join(dir, name), i, 2*i))
		must(t, os.Chmod(dir, 0o755))
		must(t, os.Chown(dir, 7, 8))
		must(t, sn.Commit(t.Context(), name, "making "+name))
		parent = name
	}
	users := userNamespace(t)
	s := open(t, t.TempDir(), sn)
	ctx := t.Context()
	mountMapped := func(mounts []snapshot.Mount) string {
		t.Helper()
		root := t.TempDir()
		// As long as the runtime's own.
		scratch := filepath.Join(t.TempDir(), strings.Repeat("s", 64))
		must(t, os.Mkdir(scratch, 0o700))
		must(t, snapshot.MountMapped(mounts, root, scratch, users))
		t.Cleanup(func() { must(t, snapshot.UnmountAt(root)) })
		if left := names(t, scratch); len(left) > 0 {
			t.Errorf("left in the scratch directory: %v", left)
		}
		return root
	}
	mounts, err := s.Prepare(ctx, "c", parent, owned)
	must(t, err)
	root := mountMapped(mounts)
	if got := len(names(t, root)); got != depth {
		t.Errorf("%d files, want %d", got, depth)
	}
	expectOwner(t, root, firstID+7, firstID+8)
	expectOwner(t, filepath.Join(root, "layer-3"), firstID+3, firstID+6)
	expectOwner(t, filepath.Join(root, "layer-79"), firstID+79, firstID+158)
	must(t, os.Chmod(filepath.Join(root, "layer-3"), 0o640)) // copies it up
	expectOwner(t, filepath.Join(root, "layer-3"), firstID+3, firstID+6)
	plain, err := s.Prepare(ctx, "plain", parent, nil)
	must(t, err)
	expectOwner(t, filepath.Join(mount(t, plain), "layer-3"), 3, 6)

	for layers, chain := range map[int]string{depth: parent, 1: "layer-0"} {
		view, err := s.View(ctx, "view of "+chain, chain)
		must(t, err)
		root := mountMapped(view)
		expectOwner(t, filepath.Join(root, "layer-0"), firstID, firstID)
		if got := len(names(t, root)); got != layers {
			t.Errorf("a view of %d layers has %d files", layers, got)
		}
		if err := os.WriteFile(filepath.Join(root, "x"), nil, 0o600); err == nil {
			t.Error("a view can be written to")
		}
	}
	empty, err := s.Prepare(ctx, "empty", "", owned)
	must(t, err)
	expectOwner(t, mountMapped(empty), firstID, firstID)
}
