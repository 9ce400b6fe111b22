//go:build cgo

package server

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/runtime/supervisor/protocol"
)

// ErrAnother says that another supervisor of the same directories listens already.
var ErrAnother = errors.New("another supervisor listens")

// takeLock makes this process the supervisor of a run directory. The lock is exclusive until the supervisor listens and shared from then on, so
// that who comes while one starts waits for what becomes of it: the starter may have been killed and another one begun, which
// must not fail for that. It returns ErrAnother where the other one listens; where it has ended, its place is taken.
func takeLock(path string) (lock *os.File, err error) {
	lock, err = os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open supervisor lock: %w", err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, lock.Close())
		}
	}()
	err = flock(lock, unix.LOCK_EX|unix.LOCK_NB)
	if !errors.Is(err, unix.EWOULDBLOCK) {
		return lock, err
	}
	if err := flock(lock, unix.LOCK_SH); err != nil {
		return nil, err
	}
	if err = flock(lock, unix.LOCK_EX|unix.LOCK_NB); errors.Is(err, unix.EWOULDBLOCK) {
		return nil, ErrAnother
	}
	return lock, err
}

func flock(f *os.File, how int) error {
	fd, err := protocol.Descriptor(f)
	if err != nil {
		return err
	}
	for {
		err := unix.Flock(fd, how)
		if err == nil {
			return nil
		}
		if !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("lock %s: %w", f.Name(), err)
		}
	}
}
