package evict

import (
	"context"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/kubelet/stats"
)

// Machine observes this machine. Cost of a look: two small files of /proc and
// one statfs a file system, well below 100 microseconds.
type Machine struct {
	// RootDir is on the node's file system.
	RootDir string
	// Images tells a directory on the images' file system.
	Images func(context.Context) (string, error)
}

// Observe reads everything that can run short. What cannot be read is left out
// of the observations, and said in the error.
func (m *Machine) Observe(ctx context.Context) (Observations, error) {
	const proc = "/proc"
	o := Observations{}
	memory, err := stats.ReadMemory(filepath.Join(proc, "meminfo"))
	if err != nil {
		return o, err
	}
	o[MemoryAvailable] = Observation{Available: int64(memory.Available), Capacity: int64(memory.Capacity)}
	processes, err := stats.ReadProcesses(proc)
	if err != nil {
		return o, err
	}
	o[PIDAvailable] = Observation{Available: int64(processes.Max) - int64(processes.Running), Capacity: int64(processes.Max)}
	if err := o.disk(m.RootDir, NodeFsAvailable, NodeFsInodesFree); err != nil {
		return o, err
	}
	path, err := m.Images(ctx)
	if err != nil {
		return o, err
	}
	return o, o.disk(path, ImageFsAvailable, ImageFsInodesFree)
}

// Dedicated says whether images have a file system of their own.
func (m *Machine) Dedicated(ctx context.Context) (bool, error) {
	path, err := m.Images(ctx)
	if err != nil {
		return false, err
	}
	var root, images unix.Stat_t
	if err := unix.Stat(m.RootDir, &root); err != nil {
		return false, fmt.Errorf("look at %s: %w", m.RootDir, err)
	}
	if err := unix.Stat(path, &images); err != nil {
		return false, fmt.Errorf("look at %s: %w", path, err)
	}
	return root.Dev != images.Dev, nil
}

// disk observes one file system. One without a fixed number of inodes never
// runs out of them.
func (o Observations) disk(path string, bytes, inodes Signal) error {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return fmt.Errorf("read room of file system of %s: %w", path, err)
	}
	size := st.Bsize
	o[bytes] = Observation{Available: int64(st.Bavail) * size, Capacity: int64(st.Blocks) * size}
	if st.Files > 0 {
		o[inodes] = Observation{Available: int64(st.Ffree), Capacity: int64(st.Files)}
	}
	return nil
}
