// Package removetree removes directories that containers could write to, with what is mounted in them taken off first.
package removetree

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// deepest is how far below the removed directory the removal goes, with a descriptor open for each directory on the way. A container may
// have made them deeper than that, than there are descriptors, and than a path may be long.
const deepest = 64

// Remove unmounts what is mounted in a directory and removes it. It is idempotent. dir may be reached by links; none is followed in it.
//
// It enters no mount: what it meets is detached first, with what is mounted on that in turn, so that nothing behind a mount
// point is removed, a volume that outlives a Pod least of all. The table of mounts is not asked: reading it takes longer
// than all the rest where there are many Pods. What lies too deep is moved up, and then removed from there.
func Remove(dir string) error {
	real, err := filepath.EvalSymlinks(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("find %s: %w", dir, err)
	}
	parent, err := os.Open(filepath.Dir(real))
	if err != nil {
		return fmt.Errorf("open the directory of what is to be removed: %w", err)
	}
	defer parent.Close()
	return (&removal{}).entry(parent, filepath.Base(real), 0)
}

// removal is one call of Remove.
type removal struct {
	top   *os.File // what is removed, once it is open
	moved int      // how many directories were tried to be moved up
}

// entry removes the entry name of dir, which may be gone, with all that is below it. Nothing is looked up by a path that
// a Pod could change meanwhile.
func (r *removal) entry(dir *os.File, name string, depth int) error {
	at := int(dir.Fd())
	path := filepath.Join(dir.Name(), name) // for messages
	for {
		err := unix.Unlinkat(at, name, 0)
		switch {
		case err == unix.EISDIR && depth > deepest:
			err = r.moveUp(at, name)
		case err == unix.EISDIR:
			err = r.directory(dir, name, depth)
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

// moveUp moves a directory into the one that is removed, which comes to it when it looks what is left; EXDEV and EBUSY say that it is a
// mount point.
func (r *removal) moveUp(at int, name string) error {
	for {
		r.moved++
		err := unix.Renameat2(at, name, int(r.top.Fd()), fmt.Sprintf(".moved-up-%d", r.moved), unix.RENAME_NOREPLACE)
		if err != unix.EEXIST {
			return err
		}
	}
}

// directory removes the directory name of dir; EXDEV and EBUSY say that it is a mount point.
func (r *removal) directory(dir *os.File, name string, depth int) error {
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV,
	})
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), filepath.Join(dir.Name(), name))
	defer f.Close()
	if depth == 0 {
		r.top = f
	}
	for {
		names, err := f.Readdirnames(1024)
		for _, name := range names {
			if err := r.entry(f, name, depth+1); err != nil {
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
