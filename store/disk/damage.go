package disk

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"syscall"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/record"
	"github.com/cockroachdb/pebble/v2/vfs"
)

// DamagedError says that the files of a directory are not as they were written: bits have changed, or some are missing. Nothing
// repairs that, and nothing of it is removed.
type DamagedError struct {
	Dir string
	Err error
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("the data in %s is damaged: %v; restore this directory from a backup", e.Dir, e.Err)
}

func (e *DamagedError) Unwrap() error { return e.Err }

// damaged makes a DamagedError of an error with which the database did not open or could not be read. What the system says of its
// devices and limits is none, but for a file that is not there.
func (d *DB) damaged(err error) error {
	if err == nil {
		return nil
	}
	var known *DamagedError
	if errors.As(d.Failed(), &known) {
		return known
	}
	var system syscall.Errno
	if errors.Is(err, errFenced) || errors.As(err, &system) && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if name := d.lastLog.Load(); name != nil && errors.Is(err, record.ErrInvalidChunk) {
		err = fmt.Errorf("%s: %w", *name, err)
	}
	return &DamagedError{d.dir, err}
}

// found is told of damage when a file is read. The database goes on without what it could not read, which must not be what is served.
func (d *DB) found(info pebble.DataCorruptionInfo) {
	_ = d.fail(&DamagedError{d.dir, fmt.Errorf("%s: %w", info.Path, info.Details)})
}

// checkWhole refuses a directory that has tables or logs of a database, but not the file that says which of them count: the database
// would begin anew, and remove the tables. One that was interrupted when it was made has none yet.
func checkWhole(fsys vfs.FS, dir string) error {
	desc, err := pebble.Peek(dir, fsys)
	if err != nil || desc.Exists {
		return err
	}
	names, err := fsys.List(dir)
	if err != nil {
		return err
	}
	for _, name := range names {
		if ext := filepath.Ext(name); ext == ".sst" || ext == ".log" {
			return &DamagedError{dir, fmt.Errorf("there is %s, but no marker.manifest.*", name)}
		}
	}
	return nil
}
