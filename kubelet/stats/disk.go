package stats

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"k8s.io/utils/clock"
)

// Disk is what a directory holds.
type Disk struct {
	Bytes  uint64 // on disk, so holes do not count
	Inodes uint64
}

func (d *Disk) add(o Disk) { d.Bytes, d.Inodes = d.Bytes+o.Bytes, d.Inodes+o.Inodes }

// disks measures directories and remembers it.
type disks struct {
	clock clock.PassiveClock

	mu   sync.Mutex
	have map[string]measured
}

type measured struct {
	disk Disk
	at   time.Time
	cost time.Duration
}

func newDisks(c clock.PassiveClock) *disks { return &disks{clock: c, have: map[string]measured{}} }

// measure tells what a directory held at most age ago, or longer ago where
// measuring it is so costly that it would take more than a fiftieth of a core.
// A directory that does not exist holds nothing.
func (d *disks) measure(ctx context.Context, path string, age time.Duration) (Disk, time.Time, error) {
	d.mu.Lock()
	m, ok := d.have[path]
	d.mu.Unlock()
	now := d.clock.Now()
	if ok && now.Before(expiry(m.at, m.cost, age)) {
		return m.disk, m.at, nil
	}
	disk, err := Measure(ctx, path)
	if err != nil {
		return Disk{}, now, err
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.have[path] = measured{disk, now, d.clock.Since(now)}
	return disk, now, nil
}

// keep forgets what was not measured after a time.
func (d *disks) keep(since time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for path, m := range d.have {
		if m.at.Before(since) {
			delete(d.have, path)
		}
	}
}

// longestPath is how long a path below the measured directory may be, in bytes:
// as long as the kernel takes one. The walk holds the paths of all directories
// on its way, so that a container which nests them without end would have the
// sum of these grow with the square of the depth.
const longestPath = unix.PathMax

// Measure walks over a directory. Files with several names count once, other
// file systems mounted below do not count, and no link is followed: whoever
// changes the tree meanwhile cannot lead the walk out of it. What only a path
// of more than longestPath leads to does not count either.
func Measure(ctx context.Context, path string) (Disk, error) {
	root, err := os.OpenRoot(path)
	if errors.Is(err, fs.ErrNotExist) {
		return Disk{}, nil
	}
	if err != nil {
		return Disk{}, fmt.Errorf("measure directory: %w", err)
	}
	defer root.Close()
	var total Disk
	var device uint64
	linked := map[uint64]bool{}
	err = fs.WalkDir(root.FS(), ".", func(name string, e fs.DirEntry, err error) error {
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, fs.ErrNotExist):
			return nil // gone meanwhile
		case err != nil:
			return err
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		st, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			return fmt.Errorf("stat %s: no inode", name)
		}
		if name == "." {
			device = uint64(st.Dev)
		}
		if uint64(st.Dev) != device {
			if e.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		if st.Nlink > 1 && !e.IsDir() {
			if linked[st.Ino] {
				return nil
			}
			linked[st.Ino] = true
		}
		total.add(Disk{Bytes: uint64(st.Blocks) * 512, Inodes: 1})
		if e.IsDir() && len(name) > longestPath {
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		return Disk{}, fmt.Errorf("measure %s: %w", path, err)
	}
	return total, nil
}

// FileSystem tells size and room of the file system that a path is on. Used is
// what all of its users together take.
func FileSystem(path string, at time.Time) (*statsapi.FsStats, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return nil, fmt.Errorf("read room of file system of %s: %w", path, err)
	}
	size := uint64(st.Bsize)
	return &statsapi.FsStats{
		Time: stamp(at), CapacityBytes: ptr(st.Blocks * size), AvailableBytes: ptr(st.Bavail * size),
		UsedBytes: ptr((st.Blocks - st.Bfree) * size),
		Inodes:    ptr(st.Files), InodesFree: ptr(st.Ffree), InodesUsed: ptr(st.Files - st.Ffree),
	}, nil
}

// used is a file system of which only a part counts as used.
func used(fs *statsapi.FsStats, d Disk, at time.Time) *statsapi.FsStats {
	out := *fs
	out.Time, out.UsedBytes, out.InodesUsed = stamp(at), ptr(d.Bytes), ptr(d.Inodes)
	return &out
}

// inMemory says whether a path is on a file system that lives in memory.
func inMemory(path string) (bool, error) {
	var st unix.Statfs_t
	if err := unix.Statfs(path, &st); err != nil {
		return false, fmt.Errorf("read file system of %s: %w", path, err)
	}
	return st.Type == unix.TMPFS_MAGIC, nil
}
