package localpath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/sys/mountinfo"

	"github.com/peapod/peapod/internal/localpath"
)

// Names below the keeper's directory are resolved from its file descriptor, and no link is followed: what is in a volume
// was written by Pods.

// mode lets any user of a container write: a volume is for whatever user its Pods have. A Pod's fsGroup narrows nothing.
const mode = 0o777

// open opens the keeper's directory. Others of the machine may not look in: volumes are mounted by the kubelet.
func open(dir string) (*os.Root, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	return os.OpenRoot(dir)
}

// makeDirectory makes a volume's directory, which is on disk when it returns. One that is there stays as it is.
func makeDirectory(dir, name string) error {
	if err := plain(name); err != nil {
		return err
	}
	root, err := open(dir)
	if err != nil {
		return err
	}
	defer root.Close()
	if err := root.Mkdir(name, mode); err == nil {
		// The mode that was asked for is cut by the umask.
		if err := root.Chmod(name, mode); err != nil {
			return err
		}
	} else if !errors.Is(err, fs.ErrExist) {
		return err
	}
	info, err := root.Lstat(name)
	if err != nil {
		return err
	}
	if !info.IsDir() {
		return fmt.Errorf("%s %w", localpath.Path(dir, name), errNotDirectory)
	}
	return flush(root)
}

// flush writes the entries of a directory to disk.
func flush(root *os.Root) error {
	d, err := root.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// removeDirectory removes a volume's directory with all that is in it. What is mounted there is not the volume's: nothing is
// removed then.
func removeDirectory(dir, name string) error {
	if err := plain(name); err != nil {
		return err
	}
	root, err := os.OpenRoot(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer root.Close()
	path, err := filepath.EvalSymlinks(dir)
	if err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(localpath.Path(path, name)))
	if err != nil {
		return fmt.Errorf("list mounts: %w", err)
	}
	if len(mounts) > 0 {
		return fmt.Errorf("remove volume %s: something is mounted at %s: unmount it", name, mounts[0].Mountpoint)
	}
	if err := root.RemoveAll(name); err != nil {
		return fmt.Errorf("remove volume %s: %w", name, err)
	}
	return flush(root)
}

// plain refuses what is not the name of one entry of a directory. The API server lets no volume have such a name.
func plain(name string) error {
	if name == "" || name == "." || name == ".." || filepath.Base(name) != name {
		return fmt.Errorf("volume name %q is not the name of a directory", name)
	}
	return nil
}
