package instance

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func kind(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return st.Type
}

// The volatile parts are in memory, are mounted once, and leave what is in use alone.
func TestRunDirectoryIsInMemory(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	dir := t.TempDir()
	if k := kind(t, dir); k == unix.TMPFS_MAGIC || k == unix.RAMFS_MAGIC {
		t.Skip("the temporary directory is in memory itself")
	}
	i := Instance{RunDir: filepath.Join(dir, "run")}
	t.Cleanup(func() {
		if err := i.CloseRun(); err != nil {
			t.Error(err)
		}
	})
	inUse := filepath.Join(i.SupervisorRun(), "supervisor.sock")
	if err := errors.Join(os.MkdirAll(i.SupervisorRun(), 0o700), os.WriteFile(inUse, nil, 0o600)); err != nil {
		t.Fatal(err)
	}
	// One that is in memory already is not mounted on again, empty though it is.
	if err := i.OpenRun(); err != nil {
		t.Fatal(err)
	}
	mark := filepath.Join(i.RuntimeRun(), "mark")
	for range 2 {
		if err := i.OpenRun(); err != nil {
			t.Fatal(err)
		}
		if k := kind(t, i.RuntimeRun()); k != unix.TMPFS_MAGIC {
			t.Errorf("the runtime's part is on a file system of type %x", k)
		}
		if _, err := os.Stat(inUse); err != nil {
			t.Errorf("what was in use is hidden: %v", err)
		}
		if err := os.WriteFile(mark, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	info, err := os.Stat(i.RuntimeRun())
	if err != nil || info.Mode().Perm() != 0o711 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	for range 2 {
		if err := i.CloseRun(); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(mark); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("after CloseRun: %v", err)
		}
		if k := kind(t, i.RuntimeRun()); k == unix.TMPFS_MAGIC {
			t.Error("after CloseRun the runtime's part is in memory: it was mounted more than once")
		}
	}
}
