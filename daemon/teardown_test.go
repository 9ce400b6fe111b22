package daemon

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/removetree/removetreetest"
)

// TestUninstallEndsWhatIsLeft: a process in the instance's cgroups that nothing else knows of does not outlive it.
func TestUninstallEndsWhatIsLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("makes cgroups, which needs root")
	}
	i, err := instance.At(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	root := "/sys/fs/cgroup"
	if !cgroups.IsCgroup2UnifiedMode() {
		root = "/sys/fs/cgroup/pids"
	}
	dir := filepath.Join(root, cgroupRoot(i), "supervisor")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	left := exec.Command("sleep", "1000000")
	if err := left.Start(); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), []byte(strconv.Itoa(left.Process.Pid)), 0); err != nil {
		t.Fatal(err)
	}
	if there, err := Installed(i); err != nil || !there {
		t.Errorf("before, something of it is there: %v (%v)", there, err)
	}
	if err := Uninstall(t.Context(), i); err != nil {
		t.Error(err)
		_ = left.Process.Kill()
	}
	if there, err := Installed(i); err != nil || there {
		t.Errorf("afterwards, something of it is there: %v (%v)", there, err)
	}
	if err := left.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("it ended with %v", err)
	}
	if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the cgroup is there yet: %v", err)
	}
}

// TestUninstallRemovesWhatContainersMade: directories in a volume that are nested deeper than a process may have files open.
func TestUninstallRemovesWhatContainersMade(t *testing.T) {
	i, err := instance.At(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(i.DataDir, 0o700), i.Open("test")); err != nil {
		t.Fatal(err)
	}
	volume := filepath.Join(volumesDir(i), "pvc-1")
	if err := os.MkdirAll(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(removetreetest.Deep(t, 1000), filepath.Join(volume, "deep")); err != nil {
		t.Fatal(err)
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 256, Max: limit.Max}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
			t.Error(err)
		}
	})
	for range 2 { // also when it is gone
		if err := Uninstall(t.Context(), i); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Lstat(i.DataDir); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the data directory is there yet: %v", err)
		}
	}
}

// TestNobodyElsesDirectory: a directory that is somebody else's is neither used nor emptied, nor is anything left in it.
func TestNobodyElsesDirectory(t *testing.T) {
	dir := t.TempDir()
	i, err := instance.At(dir)
	if err != nil {
		t.Fatal(err)
	}
	photo := filepath.Join(dir, "photos", "cat.png")
	if err := errors.Join(os.Mkdir(filepath.Dir(photo), 0o755), os.WriteFile(photo, []byte("meow"), 0o644)); err != nil {
		t.Fatal(err)
	}
	for verb, do := range map[string]func() error{
		"start":     func() error { _, err := claim(i); return err },
		"kill":      func() error { _, err := KillPods(t.Context(), i); return err },
		"uninstall": func() error { return Uninstall(t.Context(), i) },
	} {
		if err := do(); err == nil || !strings.Contains(err.Error(), "directory "+dir+" is not Peapod's") || !strings.Contains(err.Error(), "(photos)") {
			t.Errorf("%s: %v", verb, err)
		}
	}
	if there, err := os.ReadDir(dir); len(there) != 1 {
		t.Errorf("there is %v, %v", there, err)
	}
	if _, err := os.Stat(photo); err != nil {
		t.Error(err)
	}
}
