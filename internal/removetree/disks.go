package removetree

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/mountpoint"
)

// RemoveButDisks removes a directory as Remove does, except that it takes what is mounted on it, or on an entry of it, for a disk that
// somebody gave it: that is emptied and stays mounted, with the directories that lead to it. Files of the names last go after all else.
// It is idempotent, and follows no link.
func RemoveButDisks(dir string, last ...string) error {
	disks, err := empty(dir, last, func(path string) (bool, error) {
		disk, err := mountpoint.At(path)
		if err == nil && disk {
			_, err = empty(path, nil, func(string) (bool, error) { return false, nil })
		}
		return disk, err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	switch err := unix.Rmdir(dir); {
	case err == nil, err == unix.ENOENT, err == unix.EBUSY, err == unix.ENOTEMPTY && disks > 0:
		return nil
	default:
		return fmt.Errorf("remove %s: %w", dir, err)
	}
}

// empty removes what is in a directory, files of the names last after all else, and returns how many of its directories were kept since keep
// says so.
func empty(dir string, last []string, keep func(path string) (bool, error)) (kept int, err error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return 0, fmt.Errorf("read directory: %w", err)
	}
	slices.SortStableFunc(entries, func(a, b os.DirEntry) int {
		return slices.Index(last, a.Name()) - slices.Index(last, b.Name())
	})
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		if !e.IsDir() { // Remove would go where a link leads
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return 0, err
			}
			continue
		}
		its, err := keep(path)
		switch {
		case err != nil:
			return 0, err
		case its:
			kept++
		default:
			if err := Remove(path); err != nil {
				return 0, err
			}
		}
	}
	return kept, nil
}
