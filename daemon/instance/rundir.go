package instance

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// volatile are the parts of the run directory with what is gone when the machine is: mounts, sockets, the supervisor's and
// libcontainer's state. The modes are those that their owners give them.
var volatile = []struct {
	name string
	mode os.FileMode
}{{"supervisor", 0o700}, {"runtime", 0o711}}

// SupervisorRun is the containers' supervisor's part of the run directory.
func (i Instance) SupervisorRun() string { return filepath.Join(i.RunDir, volatile[0].name) }

// RuntimeRun is the container runtime's part of the run directory.
func (i Instance) RuntimeRun() string { return filepath.Join(i.RunDir, volatile[1].name) }

// OpenRun makes the run directory. Where /run is on a disk, as in some containers and small machines, its volatile parts are
// put in memory all the same: a reboot must empty them, and a Pod's start makes a dozen files there. It is idempotent.
func (i Instance) OpenRun() error {
	// The root of a user namespace passes through, to its root file system; what is in it is closed by itself.
	if err := errors.Join(os.MkdirAll(i.RunDir, 0o711), os.Chmod(i.RunDir, 0o711)); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	for _, part := range volatile {
		if err := putInMemory(filepath.Join(i.RunDir, part.name), part.mode); err != nil {
			return err
		}
	}
	return nil
}

// putInMemory makes the directory dir and mounts memory on it, unless it is in memory or has something in it: that is in use.
func putInMemory(dir string, mode os.FileMode) error {
	if err := os.MkdirAll(dir, mode); err != nil {
		return fmt.Errorf("make run directory: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("look at run directory %s: %w", dir, err)
	}
	if st.Type == unix.TMPFS_MAGIC || st.Type == unix.RAMFS_MAGIC {
		return nil
	}
	used, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("read run directory: %w", err)
	}
	if len(used) > 0 {
		return nil
	}
	if err := unix.Mount("peapod", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, fmt.Sprintf("mode=%04o", mode)); err != nil {
		return fmt.Errorf("mount memory on run directory %s: %w", dir, err)
	}
	return nil
}

// CloseRun takes the memory back that OpenRun mounted. Nothing of the instance may run any more. It is idempotent.
func (i Instance) CloseRun() error {
	for _, part := range volatile {
		dir := filepath.Join(i.RunDir, part.name)
		if err := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW); err != nil && err != unix.EINVAL && err != unix.ENOENT {
			return fmt.Errorf("unmount run directory %s: %w", dir, err)
		}
	}
	return nil
}
