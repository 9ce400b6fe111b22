package volume

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// Remove unmounts what is mounted in a directory of the kubelet's and removes it, as removeTree does with a Pod's.
func Remove(dir string) error { return removeTree(dir) }

// removeTree unmounts what is mounted in a Pod's directory and removes it. It is idempotent.
//
// It enters no mount: what it meets is detached first, with what is mounted on that in turn, so that nothing behind a mount
// point is removed, a volume that outlives the Pod least of all. The table of mounts is not asked: reading it takes longer
// than all the rest where there are many Pods.
func removeTree(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", dir, err)
	}
	parent, err := os.Open(filepath.Dir(real))
	if err != nil {
		return fmt.Errorf("open Pods' directory: %w", err)
	}
	defer parent.Close()
	return removeEntry(parent, filepath.Base(real))
}

// removeEntry removes the entry name of dir, which may be gone, with all that is below it. Nothing is looked up by a path that
// a Pod could change meanwhile.
func removeEntry(dir *os.File, name string) error {
	at := int(dir.Fd())
	path := filepath.Join(dir.Name(), name) // for messages
	for {
		err := unix.Unlinkat(at, name, 0)
		if err == unix.EISDIR {
			err = removeDirectory(dir, name)
		}
		switch err {
		case nil, unix.ENOENT:
			return nil
		case unix.EBUSY, unix.EXDEV:
			if err := detach(at, name); err != nil {
				return fmt.Errorf("unmount %s: %w", path, err)
			}
		default:
			if _, own := err.(unix.Errno); own {
				return fmt.Errorf("remove %s: %w", path, err)
			}
			return err // of what is below
		}
	}
}

// removeDirectory removes the directory name of dir; EXDEV and EBUSY say that it is a mount point.
func removeDirectory(dir *os.File, name string) error {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name))
	defer f.Close()
	for {
		names, err := f.Readdirnames(1024)
		for _, name := range names {
			if err := removeEntry(f, name); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
		// What is removed may move what is not yet read.
		if _, err := f.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
	return unix.Unlinkat(int(dir.Fd()), name, unix.AT_REMOVEDIR)
}

// detach unmounts what is mounted on the entry name of the directory at, with all that is mounted below.
func detach(at int, name string) error {
	return unix.Unmount(fmt.Sprintf("/proc/self/fd/%d/%s", at, name), unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH)
}
