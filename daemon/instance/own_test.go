package instance

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// What users lay into a data directory before the first start, and what a start that came no further leaves, is no reason to refuse it; anything
// else is, until there is a record.
func TestCheckOwn(t *testing.T) {
	i, err := At(filepath.Join(t.TempDir(), "data"))
	if err != nil {
		t.Fatal(err)
	}
	fine := func(what string) {
		t.Helper()
		if err := i.CheckOwn(); err != nil {
			t.Errorf("%s: %v", what, err)
		}
	}
	write := func(name string) {
		t.Helper()
		path := filepath.Join(i.DataDir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o700), os.WriteFile(path, nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	fine("no directory")
	for _, name := range []string{"restore.partial/store/1.log", "registries/docker.io/hosts.toml", "seccomp/mine.json", "lost+found/x", "server.log", "config.yaml", ".peapod.json.123"} {
		write(name)
	}
	if err := os.Mkdir(filepath.Join(i.DataDir, "volumes"), 0o755); err != nil {
		t.Fatal(err)
	}
	fine("before the first start")
	if os.Geteuid() != 0 {
		t.Skip("mounts need root")
	}
	disk := filepath.Join(i.DataDir, "images")
	if err := errors.Join(os.Mkdir(disk, 0o755), unix.Mount("peapod-test", disk, "tmpfs", 0, "size=1m")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(disk, 0); err != nil {
			t.Error(err)
		}
	})
	write("images/lost+found/x")
	fine("with a disk that is not empty")
	for _, name := range []string{"a", "b/x", "c", "d"} {
		write(name)
	}
	if err := i.CheckOwn(); err == nil || !strings.Contains(err.Error(), "no peapod.json, but other files (a, b, c, ...)") {
		t.Errorf("with other files: %v", err)
	}
	if err := i.Open("test"); err != nil {
		t.Fatal(err)
	}
	fine("with a record")
	if err := os.Rename(i.RecordFile(), filepath.Join(i.DataDir, "server.lock")); err != nil {
		t.Fatal(err)
	}
	fine("with a lock, whose record was moved elsewhere")
}
