package volume

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A Pod's directory goes with everything that is mounted in it, wherever that is and however often; what is behind the mounts
// stays.
func TestRemoveTree(t *testing.T) {
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		t.Skipf("needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	data := filepath.Join(base, "data")
	pod := filepath.Join(base, "pods", "uid")
	must(os.MkdirAll(filepath.Join(data, "sub"), 0o755))
	must(os.WriteFile(filepath.Join(data, "sub", "kept"), []byte("data"), 0o600))
	for _, d := range []string{"volumes/local/v", "volumes/empty/cache/shared/deep", "volumes/empty/many", "volume-subpaths/v/c/0"} {
		must(os.MkdirAll(filepath.Join(pod, d), 0o755))
	}
	for i := range 3000 {
		must(os.WriteFile(filepath.Join(pod, "volumes/empty/many", fmt.Sprint(i)), nil, 0o600))
	}
	must(os.Symlink(data, filepath.Join(pod, "volumes/empty/many/link")))
	must(os.WriteFile(filepath.Join(pod, "etc-hosts"), nil, 0o600))
	bind := func(from, to string) {
		t.Helper()
		must(unix.Mount(from, filepath.Join(pod, to), "", unix.MS_BIND, ""))
	}
	bind(data, "volumes/local/v")
	bind(data, "volumes/local/v")                           // twice, as after a crash
	bind(filepath.Join(data, "sub"), "volumes/local/v/sub") // on a mount
	bind(filepath.Join(data, "sub"), "volume-subpaths/v/c/0")
	bind(data, "volumes/empty/cache/shared/deep")                        // where the Pod mounted it itself
	bind(filepath.Join(data, "sub/kept"), "volumes/empty/many/1000")     // a file
	must(unix.Mount("tmpfs", pod+"/volumes/empty/many", "tmpfs", 0, "")) // over what is there
	must(os.WriteFile(filepath.Join(pod, "volumes/empty/many/in-memory"), nil, 0o600))

	for range 2 { // also when it is gone
		must(removeTree(pod))
		if _, err := os.Lstat(pod); !os.IsNotExist(err) {
			t.Fatalf("the Pod's directory is left: %v", err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(data, "sub", "kept")); string(b) != "data" {
		t.Errorf("behind the mounts: %q, %v", b, err)
	}
	if left, err := mountsBelow(base); err != nil || len(left) != 1 {
		t.Errorf("mounted still: %v, %v", left, err)
	}
	// A mount on the directory itself is no different.
	must(os.Mkdir(pod, 0o755))
	must(unix.Mount(data, pod, "", unix.MS_BIND, ""))
	must(removeTree(pod))
	if _, err := os.Stat(filepath.Join(data, "sub", "kept")); err != nil {
		t.Errorf("behind a mount on the Pod's directory: %v", err)
	}
	// What cannot be removed is named.
	must(os.MkdirAll(filepath.Join(pod, "volumes"), 0o755))
	must(unix.Mount("", base, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	err := removeTree(pod)
	if want := "remove " + pod + ": read-only file system"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
