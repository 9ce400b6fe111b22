package disk

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Format is the version of the layout on disk that this package writes. It rises with every change that an older
// version would misread. It is in a plain file, so that it can be read before anything else is.
const Format = 1

const formatFile = "FORMAT"

// NewerFormatError says that a directory was made by a version of this package that is newer than it understands.
type NewerFormatError struct {
	Dir  string
	Has  int
	Know int
}

func (e *NewerFormatError) Error() string {
	return fmt.Sprintf("the data in %s was written by a newer version: it has format %d, this version knows formats up to %d; "+
		"run the newer version, or use another data directory", e.Dir, e.Has, e.Know)
}

// Exists says whether dir has what Open has made, whole or not.
func Exists(dir string) (bool, error) {
	_, err := os.Stat(filepath.Join(dir, formatFile))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for a store: %w", err)
	}
	return true, nil
}

// checkFormat reads the format of the data in dir, and writes it where dir is new.
func checkFormat(fsys vfs.FS, dir string) error {
	path := fsys.PathJoin(dir, formatFile)
	f, err := fsys.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return writeFormat(fsys, dir)
	}
	if err != nil {
		return fmt.Errorf("read the format of the data: %w", err)
	}
	defer f.Close()
	text, err := io.ReadAll(f)
	if err != nil {
		return fmt.Errorf("read the format of the data in %s: %w", path, err)
	}
	has, err := strconv.Atoi(string(bytes.TrimSpace(text)))
	if err != nil || has < 1 {
		return &DamagedError{dir, fmt.Errorf("%s has no format number, but %q", path, text)}
	}
	if has > Format {
		return &NewerFormatError{Dir: dir, Has: has, Know: Format}
	}
	return nil
}

// writeFormat makes the format file appear whole or not at all.
func writeFormat(fsys vfs.FS, dir string) error {
	path := fsys.PathJoin(dir, formatFile)
	err := func() error {
		f, err := fsys.Create(path+".new", vfs.WriteCategoryUnspecified)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(f, Format)
		err = errors.Join(err, f.Sync(), f.Close())
		if err != nil {
			return err
		}
		if err := fsys.Rename(path+".new", path); err != nil {
			return err
		}
		return syncDir(fsys, dir)
	}()
	if err != nil {
		return fmt.Errorf("write the format of the data to %s: %w", path, err)
	}
	return nil
}

// makeDir makes dir and what is missing above it, so that a crash does not take it away again.
func makeDir(fsys vfs.FS, dir string) error {
	var made []string
	for at := dir; ; at = fsys.PathDir(at) {
		_, err := fsys.Stat(at)
		if err == nil {
			break
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		made = append(made, at)
		if up := fsys.PathDir(at); up == at || up == "." {
			break
		}
	}
	if err := fsys.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, at := range made {
		if err := syncDir(fsys, fsys.PathDir(at)); err != nil {
			return err
		}
	}
	return nil
}

func syncDir(fsys vfs.FS, dir string) error {
	d, err := fsys.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
