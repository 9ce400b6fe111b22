package volume

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/mountpoint"
)

// loopDevice makes a block device of 32 MiB, without a file system.
func loopDevice(t *testing.T) string {
	t.Helper()
	path, _ := growingDevice(t)
	return path
}

// growingDevice makes a block device of 32 MiB, without a file system, and what makes it larger.
func growingDevice(t *testing.T) (path string, grow func(bytes int64)) {
	t.Helper()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("this machine has no loop devices: %v", err)
	}
	defer control.Close()
	file := filepath.Join(t.TempDir(), "disk")
	disk, err := os.Create(file)
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	if err := disk.Truncate(32 << 20); err != nil {
		t.Fatal(err)
	}
	for {
		n, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			t.Fatal(err)
		}
		device, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", n), os.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		err = unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_FD, int(disk.Fd()))
		if errors.Is(err, unix.EBUSY) { // somebody was faster
			device.Close()
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := errors.Join(unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0), device.Close()); err != nil {
				t.Error(err)
			}
		})
		return device.Name(), func(bytes int64) {
			t.Helper()
			if err := errors.Join(os.Truncate(file, bytes), unix.IoctlSetInt(int(device.Fd()), unix.LOOP_SET_CAPACITY, 0)); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestDeviceWithFileSystem: two Pods at once, one of them read-only, have a device as a file system, which is made once and
// keeps what is in it; all is unmounted with the Pods.
func TestDeviceWithFileSystem(t *testing.T) {
	c, v := boundClaim(t)
	v.Spec.Local.Path, v.Spec.MountOptions = loopDevice(t), []string{"noexec,data=ordered"}
	m, _ := newManager(t, c, v)
	for round := range 2 {
		writer, reader := podWith(claimVolume(false)), podWith(claimVolume(true))
		reader.UID = types.UID("uid-2")
		writer.Spec.SecurityContext = &v1.PodSecurityContext{FSGroup: ptr.To[int64](2000)}
		var preparing sync.WaitGroup
		for _, p := range []*v1.Pod{writer, reader} {
			preparing.Go(func() {
				if err := m.Prepare(t.Context(), p); err != nil {
					t.Error(err)
				}
			})
		}
		if preparing.Wait(); t.Failed() {
			return
		}
		path := func(p *v1.Pod) string {
			mounts, err := m.Mounts(t.Context(), p, &p.Spec.Containers[0], nil)
			if err != nil || len(mounts) != 1 || mounts[0].Readonly != (p == reader) || strings.Join(mounts[0].MountOptions, ",") != "noexec" {
				t.Fatalf("mounts %v, %v", mounts, err)
			}
			return mounts[0].HostPath
		}
		var st unix.Statfs_t
		if err := unix.Statfs(path(writer), &st); err != nil || st.Type != unix.EXT4_SUPER_MAGIC || st.Flags&unix.ST_NOEXEC == 0 || st.Flags&unix.ST_RDONLY != 0 {
			t.Errorf("file system %+v, %v", st, err)
		}
		if round == 0 {
			if err := os.WriteFile(filepath.Join(path(writer), "kept"), []byte("data"), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		if b, err := os.ReadFile(filepath.Join(path(reader), "kept")); err != nil || string(b) != "data" {
			t.Errorf("round %d: the reader sees %q, %v", round, b, err)
		}
		if err := os.WriteFile(filepath.Join(path(reader), "new"), nil, 0o644); !errors.Is(err, unix.EROFS) {
			t.Errorf("the reader writes: %v", err)
		}
		at := path(writer)
		for _, p := range []*v1.Pod{writer, reader} {
			if err := m.Teardown(t.Context(), p.UID); err != nil {
				t.Fatal(err)
			}
		}
		if mounted, err := mountpoint.At(at); err == nil && mounted {
			t.Errorf("%s is mounted after its Pod", at)
		}
	}
}

// TestDeviceIsNotMadeAnew: a file system of another type than the volume's is an error, not something to replace.
func TestDeviceIsNotMadeAnew(t *testing.T) {
	c, v := boundClaim(t)
	v.Spec.Local.Path = loopDevice(t)
	m, _ := newManager(t, c, v)
	p := podWith(claimVolume(false))
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	if err := m.Teardown(t.Context(), p.UID); err != nil {
		t.Fatal(err)
	}
	c, v = c.DeepCopy(), v.DeepCopy()
	v.Spec.Local.FSType = ptr.To("xfs")
	m, _ = newManager(t, c, v)
	err := m.Prepare(t.Context(), p)
	if err == nil || !strings.Contains(err.Error(), `mount xfs file system of "`+v.Spec.Local.Path+`"`) {
		t.Errorf("prepared: %v", err)
	}
}
