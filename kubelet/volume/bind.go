package volume

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/mountpoint"
)

const flagReadOnly = unix.MS_RDONLY

// bindOptions are the mount options that a bind mount can have of its own, and whether they are set or cleared.
var bindOptions = map[string]struct {
	flag  uintptr
	clear bool
}{
	"ro": {flagReadOnly, false}, "rw": {flagReadOnly, true}, "nosuid": {unix.MS_NOSUID, false}, "suid": {unix.MS_NOSUID, true},
	"nodev": {unix.MS_NODEV, false}, "dev": {unix.MS_NODEV, true}, "noexec": {unix.MS_NOEXEC, false}, "exec": {unix.MS_NOEXEC, true},
	"noatime": {unix.MS_NOATIME, false}, "relatime": {unix.MS_RELATIME, false}, "bind": {}, "defaults": {},
}

// inContainer are the options that the runtime is told too: when it mounts a volume once more into a container, it says
// whether that one is writable, and what else the kernel knows of the mount is lost then.
var inContainer = []string{"nosuid", "nodev", "noexec", "noatime", "relatime"}

// bindNames returns the options among inContainer that flags has.
func bindNames(flags uintptr) []string {
	var out []string
	for _, name := range inContainer {
		if flags&bindOptions[name].flag != 0 {
			out = append(out, name)
		}
	}
	return out
}

// bindFlags reads the mount options of a persistent volume: those that each mount of it has for itself, and others, of which
// only a file system can know; for a bind mount they are the error.
func bindFlags(options []string) (flags uintptr, others []string, err error) {
	for _, list := range options {
		for option := range strings.SplitSeq(list, ",") {
			o, ok := bindOptions[option]
			switch {
			case !ok:
				others = append(others, option)
				err = fmt.Errorf("mount option %q is not supported for local directories: remove it from the mountOptions of the volume and its class", option)
			case o.clear:
				flags &^= o.flag
			default:
				flags |= o.flag
			}
		}
	}
	return flags, others, err
}

// bindDirectory mounts the directory source at target too, which is made. It is idempotent.
func bindDirectory(source, target string, flags uintptr) error {
	fd, err := unix.Open(source, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	switch {
	case errors.Is(err, unix.ENOENT):
		return fmt.Errorf("path %q does not exist", source)
	case errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("path %q is neither a directory nor a block device", source)
	case err != nil:
		return fmt.Errorf("open %q: %w", source, err)
	}
	defer unix.Close(fd)
	if err := os.MkdirAll(target, 0o750); err != nil {
		return fmt.Errorf("make mount point: %w", err)
	}
	mounted, err := isBoundTo(target, fd)
	if err != nil {
		return err
	}
	if !mounted {
		if err := unix.Mount("/proc/self/fd/"+strconv.Itoa(fd), target, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("bind %q: %w", source, err)
		}
	}
	return setMountFlags(target, flags)
}

// setMountFlags adds flags to the mount at target alone, not to what else is mounted of its file system.
func setMountFlags(target string, flags uintptr) error {
	if flags == 0 {
		return nil
	}
	// A bind mount takes flags only when it is mounted again, and loses those that are not said then.
	var st unix.Statfs_t
	if err := unix.Statfs(target, &st); err != nil {
		return fmt.Errorf("look at mount at %q: %w", target, err)
	}
	const kept = unix.ST_RDONLY | unix.ST_NOSUID | unix.ST_NODEV | unix.ST_NOEXEC | unix.ST_NOATIME | unix.ST_NODIRATIME // of the values of MS_*
	old := uintptr(st.Flags) & kept
	if st.Flags&unix.ST_RELATIME != 0 && flags&unix.MS_NOATIME == 0 {
		old |= unix.MS_RELATIME
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|old|flags, ""); err != nil {
		return fmt.Errorf("set flags of mount at %q: %w", target, err)
	}
	return nil
}

// isBoundTo says whether the directory fd is mounted at target. Anything else that is mounted there is taken off.
func isBoundTo(target string, fd int) (bool, error) {
	mounted, err := mountpoint.At(target)
	if err != nil || !mounted {
		return false, err
	}
	var want, have unix.Stat_t
	if err := unix.Fstat(fd, &want); err != nil {
		return false, fmt.Errorf("look at volume: %w", err)
	}
	if err := unix.Lstat(target, &have); err != nil {
		return false, fmt.Errorf("look at %s: %w", target, err)
	}
	if want.Dev == have.Dev && want.Ino == have.Ino {
		return true, nil
	}
	if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
		return false, fmt.Errorf("unmount old volume: %w", err)
	}
	return false, nil
}
