package removetree

import (
	"fmt"
	"io/fs"
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

// Disks that somebody mounted on the directory or directly in it are emptied and stay; what is mounted deeper is not entered.
func TestRemoveButDisks(t *testing.T) {
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	base := inMemory(t)
	data, elsewhere := filepath.Join(base, "data"), filepath.Join(base, "elsewhere")
	kept := filepath.Join(elsewhere, "kept")
	fill := func() {
		t.Helper()
		for _, d := range []string{"images/layers", "volumes/pvc/behind", "kubelet/pods"} {
			must(os.MkdirAll(filepath.Join(data, d), 0o755))
		}
		must(os.WriteFile(filepath.Join(data, "peapod.json"), nil, 0o600))
		must(os.Symlink(elsewhere, filepath.Join(data, "link")))
		must(unix.Mount(elsewhere, filepath.Join(data, "volumes/pvc/behind"), "", unix.MS_BIND, ""))
	}
	must(os.Mkdir(elsewhere, 0o755))
	must(os.WriteFile(kept, nil, 0o600))
	disk := func(path string) {
		t.Helper()
		must(os.MkdirAll(path, 0o755))
		must(unix.Mount("tmpfs", path, "tmpfs", 0, ""))
	}
	for name, c := range map[string]struct {
		disk, left string
	}{"none": {}, "on it": {"data", "data"}, "in it": {"data/images", "data data/images"}} {
		if c.disk != "" {
			disk(filepath.Join(base, c.disk))
		}
		fill()
		for range 2 { // also when it is done
			if err := RemoveButDisks(data); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		var left []string
		must(filepath.WalkDir(base, func(path string, _ fs.DirEntry, err error) error {
			if rest, _ := filepath.Rel(base, path); strings.HasPrefix(rest, "data") {
				left = append(left, rest)
			}
			return err
		}))
		if got := strings.Join(left, " "); got != c.left {
			t.Errorf("%s: left is %q, want %q", name, got, c.left)
		}
		if _, err := os.Stat(kept); err != nil {
			t.Errorf("%s: what is mounted deeper, or a link leads to: %v", name, err)
		}
		want := 1 // the file system of the test
		if c.disk != "" {
			want++
		}
		if left := mountsBelow(t, base); len(left) != want {
			t.Errorf("%s: mounted still: %v", name, left)
		}
		if c.disk != "" {
			must(unix.Unmount(filepath.Join(base, c.disk), unix.MNT_DETACH))
			must(os.RemoveAll(data))
		}
	}
}

// What is to go last is there as long as anything else is.
func TestRemoveButDisksLast(t *testing.T) {
	dir := filepath.Join(inMemory(t), "data")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"a", "m", "z"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	busy := filepath.Join(dir, "z")
	if err := unix.Mount(filepath.Join(dir, "m"), busy, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	if err := RemoveButDisks(dir, "a"); err == nil {
		t.Error("a file that something is mounted on is removed")
	}
	if left, err := os.ReadDir(dir); len(left) != 2 || left[0].Name() != "a" {
		t.Errorf("left are %v, %v; want a and z", left, err)
	}
	if err := unix.Unmount(busy, 0); err != nil {
		t.Fatal(err)
	}
	if err := RemoveButDisks(dir, "a"); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("the directory is left: %v", err)
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
