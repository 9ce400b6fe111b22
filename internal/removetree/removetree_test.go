package removetree

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// inMemory is a directory with a file system of its own.
func inMemory(t *testing.T) string {
	t.Helper()
	base := t.TempDir()
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		t.Skipf("needs root: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(base, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	return base
}

// A Pod's directory goes with everything that is mounted in it, wherever that is and however often; what is behind the mounts
// stays.
func TestRemove(t *testing.T) {
	base := inMemory(t)
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
		must(Remove(pod))
		if _, err := os.Lstat(pod); !os.IsNotExist(err) {
			t.Fatalf("the Pod's directory is left: %v", err)
		}
	}
	if b, err := os.ReadFile(filepath.Join(data, "sub", "kept")); string(b) != "data" {
		t.Errorf("behind the mounts: %q, %v", b, err)
	}
	if left := mountsBelow(t, base); len(left) != 1 {
		t.Errorf("mounted still: %v", left)
	}
	// A mount on the directory itself is no different.
	must(os.Mkdir(pod, 0o755))
	must(unix.Mount(data, pod, "", unix.MS_BIND, ""))
	must(Remove(pod))
	if _, err := os.Stat(filepath.Join(data, "sub", "kept")); err != nil {
		t.Errorf("behind a mount on the Pod's directory: %v", err)
	}
	// What cannot be removed is named.
	must(os.MkdirAll(filepath.Join(pod, "volumes"), 0o755))
	must(unix.Mount("", base, "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	err := Remove(pod)
	if want := "remove " + pod + ": read-only file system"; err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}

// TestDeep: a container nests directories deeper than a process has descriptors and than a path may be long, with something mounted there.
func TestDeep(t *testing.T) {
	base := inMemory(t)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	var limit unix.Rlimit
	must(unix.Getrlimit(unix.RLIMIT_NOFILE, &limit))
	less := limit
	less.Cur = 256
	must(unix.Setrlimit(unix.RLIMIT_NOFILE, &less))
	t.Cleanup(func() { must(unix.Setrlimit(unix.RLIMIT_NOFILE, &limit)) })

	data, pod := filepath.Join(base, "data"), filepath.Join(base, "pod")
	must(os.Mkdir(data, 0o755))
	must(os.WriteFile(filepath.Join(data, "kept"), []byte("data"), 0o600))
	must(os.Mkdir(pod, 0o755))
	must(os.WriteFile(filepath.Join(pod, ".moved-up-1"), nil, 0o600)) // a name that is taken
	at, err := unix.Open(pod, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(err)
	name := strings.Repeat("n", 200)
	for depth := range 2000 {
		must(unix.Mkdirat(at, name, 0o755))
		must(unix.Mkdirat(at, "beside", 0o755))
		if depth == deepest || depth == deepest+1 || depth == 1000 {
			must(unix.Mount(data, fmt.Sprintf("/proc/self/fd/%d/beside", at), "", unix.MS_BIND, ""))
		}
		next, err := unix.Openat(at, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(err)
		must(unix.Close(at))
		at = next
	}
	must(unix.Close(at))
	must(Remove(pod))
	if _, err := os.Lstat(pod); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
	}
	if b, err := os.ReadFile(filepath.Join(data, "kept")); string(b) != "data" {
		t.Errorf("behind the mounts: %q, %v", b, err)
	}
	if left := mountsBelow(t, base); len(left) != 1 {
		t.Errorf("mounted still: %v", left)
	}
}

// mountsBelow are the lines about mounts at and below a directory.
func mountsBelow(t *testing.T, dir string) (list []string) {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		if at := strings.Fields(line)[4]; at == dir || strings.HasPrefix(at, dir+"/") {
			list = append(list, line)
		}
	}
	return list
}
