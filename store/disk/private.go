package disk

import (
	"errors"
	"fmt"

	"github.com/cockroachdb/pebble/v2/vfs"
	"golang.org/x/sys/unix"
)

// privateFS is the real file system, on which files are made for the server's user alone: they hold Secrets.
type privateFS struct{ vfs.FS }

func (p privateFS) Unwrap() vfs.FS { return p.FS }

func (p privateFS) Create(name string, category vfs.DiskWriteCategory) (vfs.File, error) {
	return private(p.FS.Create(name, category))
}

func (p privateFS) OpenReadWrite(name string, category vfs.DiskWriteCategory, opts ...vfs.OpenOption) (vfs.File, error) {
	return private(p.FS.OpenReadWrite(name, category, opts...))
}

// private closes what is open, and empty yet, to others.
func private(f vfs.File, err error) (vfs.File, error) {
	if err != nil {
		return f, err
	}
	if err := unix.Fchmod(int(f.Fd()), 0o600); err != nil {
		return nil, fmt.Errorf("set mode of a file of the store: %w", errors.Join(err, f.Close()))
	}
	return f, nil
}
