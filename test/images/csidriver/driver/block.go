package driver

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// blockSize is how large volumes without a file system are, in bytes.
const blockSize = 4 << 20

// stageBlock attaches the file to a loop device and makes a node of it.
func stageBlock(file, node string) error {
	if _, err := os.Lstat(node); err == nil {
		return nil
	}
	f, err := os.OpenFile(file, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(blockSize); err != nil {
		return err
	}
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	for {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return fmt.Errorf("find a loop device: %w", err)
		}
		device := fmt.Sprintf("/dev/loop%d", number)
		loop, err := os.OpenFile(device, os.O_RDWR, 0)
		if err != nil {
			return err
		}
		err = unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_SET_FD, int(f.Fd()))
		loop.Close()
		if errors.Is(err, unix.EBUSY) {
			continue // another was faster
		}
		if err != nil {
			return fmt.Errorf("attach %s to %s: %w", file, device, err)
		}
		return unix.Mknod(node, unix.S_IFBLK|0o600, int(unix.Mkdev(7, uint32(number))))
	}
}

func unstageBlock(node string) error {
	loop, err := os.OpenFile(node, os.O_RDWR, 0)
	if errors.Is(err, os.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil
	}
	if err != nil {
		return err
	}
	defer loop.Close()
	if err := unix.IoctlSetInt(int(loop.Fd()), unix.LOOP_CLR_FD, 0); err != nil && !errors.Is(err, unix.ENXIO) {
		return fmt.Errorf("detach loop device: %w", err)
	}
	return os.Remove(node)
}

// publishBlock makes a node of the device.
func publishBlock(device, target string) error {
	var st unix.Stat_t
	if err := unix.Stat(device, &st); err != nil {
		return err
	}
	if err := unix.Mknod(target, unix.S_IFBLK|0o600, int(st.Rdev)); err != nil && !errors.Is(err, unix.EEXIST) {
		return err
	}
	return nil
}
