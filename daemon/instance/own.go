package instance

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/peapod/peapod/internal/mountpoint"
)

// Registries has what users say of image registries.
func (i Instance) Registries() string { return filepath.Join(i.DataDir, "registries") }

// SeccompProfiles is where an administrator puts Localhost seccomp profiles.
func (i Instance) SeccompProfiles() string { return filepath.Join(i.DataDir, "seccomp") }

// Restoring is where a restore puts what is not yet in its place.
func (i Instance) Restoring() string { return filepath.Join(i.DataDir, "restore.partial") }

// CheckOwn refuses a data directory that is somebody else's: one that has neither a record of what it is nor a lock, and in which something lies
// that nobody lays there before the first start. One that is not there is nobody's. Whoever takes the Lock of a directory calls it before.
func (i Instance) CheckOwn() error {
	for _, mark := range []string{i.RecordFile(), i.lockFile()} {
		if _, err := os.Lstat(mark); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	entries, err := os.ReadDir(i.DataDir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read data directory: %w", err)
	}
	var others []string
	for _, e := range entries {
		early, err := i.early(e)
		if err != nil {
			return err
		}
		if !early {
			others = append(others, e.Name())
		}
	}
	if len(others) == 0 {
		return nil
	}
	const enough = 3
	if len(others) > enough {
		others = append(others[:enough], "...")
	}
	return fmt.Errorf("directory %s is not Peapod's: it has no %s, but other files (%s); choose an empty directory with --data-dir, or remove these by hand",
		i.DataDir, filepath.Base(i.RecordFile()), strings.Join(others, ", "))
}

// laid are files that users lay into the data directory, or have the server's or agent's output written to.
var laid = []string{"config.yaml", "server.log", "agent.log"}

// early says whether an entry may be in a data directory that no server or agent has come to use yet: what a start or a restore that came no
// further left there, what users configure, and where disks are, or are to be, mounted.
func (i Instance) early(e fs.DirEntry) (bool, error) {
	path := filepath.Join(i.DataDir, e.Name())
	unwritten := "." + filepath.Base(i.RecordFile()) + "."
	if slices.Contains([]string{i.Restoring(), i.Registries(), i.SeccompProfiles()}, path) || e.Name() == "lost+found" || slices.Contains(laid, e.Name()) ||
		strings.HasPrefix(e.Name(), unwritten) {
		return true, nil
	}
	if !e.IsDir() {
		return false, nil
	}
	if disk, err := mountpoint.At(path); disk || err != nil {
		return disk, err
	}
	in, err := os.ReadDir(path)
	if err != nil {
		return false, fmt.Errorf("read data directory: %w", err)
	}
	return len(in) == 0, nil
}
