package volume

import (
	"fmt"
	"os"
	"slices"

	"golang.org/x/sys/unix"
	"k8s.io/mount-utils"
	"k8s.io/utils/exec"
	"k8s.io/utils/keymutex"

	"github.com/peapod/peapod/internal/mountpoint"
)

// devices are those that Pods of this process are at work on, by path: of two Pods one makes the file system.
var devices = keymutex.NewHashed(64)

// defaultFSType is made on a device where the volume names none.
const defaultFSType = "ext4"

// mountDevice mounts the file system of a block device at target, which is made. A device without any gets one, of type
// fsType; one that has is checked and never made anew, whatever its type. That is the machine's programs' work (blkid, mkfs,
// fsck, mount). The options are the file system's, the flags this mount's: all mounts of one device share the file system.
// It is idempotent.
func mountDevice(device string, fsType *string, options []string, target string, flags uintptr) error {
	kind := defaultFSType
	if fsType != nil && *fsType != "" {
		kind = *fsType
	}
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return fmt.Errorf("look at %q: %w", device, err)
	}
	if err := os.MkdirAll(target, 0o750); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	devices.LockKey(device)
	defer func() { _ = devices.UnlockKey(device) }() // fails for a key that is not locked
	mounted, err := holds(target, st.Rdev)
	if err != nil {
		return err
	}
	if !mounted {
		if err := mountNew(device, st.Rdev, target, kind, options); err != nil {
			return fmt.Errorf("mount %s file system of %q: %w", kind, device, err)
		}
	}
	return setMountFlags(target, flags)
}

// mountNew mounts a device at one more place. While it is mounted elsewhere it has a file system, which cannot be checked.
func mountNew(device string, number uint64, target, kind string, options []string) error {
	all, err := mount.ParseMountInfo("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	mounter := mount.New("")
	if slices.ContainsFunc(all, func(m mount.MountInfo) bool { return unix.Mkdev(uint32(m.Major), uint32(m.Minor)) == number }) {
		return mounter.Mount(device, target, kind, options)
	}
	return mount.NewSafeFormatAndMount(mounter, exec.New()).FormatAndMount(device, target, kind, options)
}

// holds says whether the file system of a device is mounted at target. Anything else that is mounted there is taken off.
func holds(target string, device uint64) (bool, error) {
	mounted, err := mountpoint.At(target)
	if err != nil || !mounted {
		return false, err
	}
	var st unix.Stat_t
	if err := unix.Lstat(target, &st); err != nil {
		return false, fmt.Errorf("look at %s: %w", target, err)
	}
	if st.Dev == device {
		return true, nil
	}
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return false, fmt.Errorf("unmount old volume: %w", err)
	}
	return false, nil
}
