package volume

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// A container that owns the volume plants links, pipes and directories where the kubelet reads.
func TestFileCannotLeaveTheVolume(t *testing.T) {
	m, _ := newManager(t)
	p := podWith(v1.Volume{Name: "v", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
		v1.Volume{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/etc"}}})
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dir := m.volumeDir(p.UID, &p.Spec.Volumes[0])
	secret := filepath.Join(t.TempDir(), "secret")
	err := errors.Join(os.WriteFile(secret, []byte("A='secret'"), 0o600), os.Mkdir(filepath.Join(dir, "d"), 0o755),
		os.WriteFile(filepath.Join(dir, "d/f"), []byte("A='b'"), 0o644), os.Symlink("d/f", filepath.Join(dir, "inside")),
		os.Symlink(secret, filepath.Join(dir, "absolute")), os.Symlink("../../../../../../../../../../.."+secret, filepath.Join(dir, "relative")),
		os.Symlink("/proc/self/environ", filepath.Join(dir, "proc")), unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644),
		os.WriteFile(filepath.Join(dir, "long"), make([]byte, maxFile+1), 0o644))
	if err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{"d/f", "inside"} {
		if b, err := m.File(p, "v", path); err != nil || string(b) != "A='b'" {
			t.Errorf("%s: %q, %v", path, b, err)
		}
	}
	for _, path := range []string{"absolute", "relative", "proc", "pipe", "d", "long", "../v/d/f"} {
		if b, err := m.File(p, "v", path); err == nil {
			t.Errorf("%s was read: %d bytes", path, len(b))
		}
	}
	if _, err := m.File(p, "v", "none"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a file that is not there: %v", err)
	}
	if b, err := m.File(p, "host", "hostname"); err == nil {
		t.Errorf("a file of the host was read: %q", b)
	}
}
