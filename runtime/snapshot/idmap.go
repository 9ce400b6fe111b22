package snapshot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// Owner says who owns on disk what a container sees as owned by uid and gid. A nil one changes nothing.
type Owner func(uid, gid uint32) (diskUID, diskGID uint32, err error)

// MountMapped is MountAt for a container whose user namespace is users: the layers of the image, which belong to the IDs that
// the image says, are mounted so that they belong to the same IDs in the namespace. The writable layer is mounted as it is: its
// files belong to IDs of the machine (see Owner), so that nothing which a container writes is ever owned by the machine's root.
// Each layer is mounted once more below scratch, as lower-N, for as long as this takes; what a crash leaves there is the caller's
// to unmount. The file system of the layers must support ID-mapped mounts, and overlay on such (Linux 5.19).
func MountMapped(mounts []Mount, target, scratch string, users *os.File) (err error) {
	var lower []string
	defer func() {
		for _, at := range lower {
			// The overlay has its own references.
			if unmountErr := UnmountAt(at); unmountErr != nil {
				err = errors.Join(err, unmountErr)
			} else if rmErr := os.Remove(at); rmErr != nil {
				err = errors.Join(err, fmt.Errorf("remove mount point of layer: %w", rmErr))
			}
		}
	}()
	for i, m := range mounts {
		if m.Type == "bind" && slices.Contains(m.Options, "ro") {
			if err := mapMount(m.Source, target, users); err != nil {
				return err
			}
			continue
		}
		options := slices.Clone(m.Options)
		for j, option := range options {
			list, ok := strings.CutPrefix(option, "lowerdir=")
			if !ok || m.Type != "overlay" {
				continue
			}
			var mapped []string
			for dir := range strings.SplitSeq(list, ":") {
				at := filepath.Join(scratch, fmt.Sprintf("lower-%d", len(lower)))
				if err := os.Mkdir(at, 0o700); err != nil {
					return fmt.Errorf("make mount point of layer: %w", err)
				}
				lower, mapped = append(lower, at), append(mapped, at)
				if err := mapMount(dir, at, users); err != nil {
					return err
				}
			}
			options[j] = "lowerdir=" + strings.Join(mapped, ":")
		}
		mounts[i].Options = options
		if err := MountAt(mounts[i:i+1], target); err != nil {
			return err
		}
	}
	return nil
}

// mapMount mounts the directory source on target too, read-only, with its IDs mapped as those of the user namespace.
func mapMount(source, target string, users *os.File) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, source, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: source, Err: err}
	}
	defer unix.Close(fd)
	if err := MapIDs(fd, users, unix.MOUNT_ATTR_RDONLY); err != nil {
		return fmt.Errorf("map the IDs of %s: %w", source, err)
	}
	if err := unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("mount %s: %w", source, &os.PathError{Op: "move_mount", Path: target, Err: err})
	}
	return nil
}

// MapIDs maps the IDs of a mount that is open and nowhere mounted yet as those of the user namespace, and sets attributes
// (MOUNT_ATTR_*) besides.
func MapIDs(mount int, users *os.File, attributes uint64) error {
	err := unix.MountSetattr(mount, "", unix.AT_EMPTY_PATH, &unix.MountAttr{
		Attr_set: unix.MOUNT_ATTR_IDMAP | attributes, Userns_fd: uint64(users.Fd()),
	})
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		return fmt.Errorf("the kernel cannot map the IDs of this file system: %w", os.NewSyscallError("mount_setattr", err))
	}
	return os.NewSyscallError("mount_setattr", err)
}
