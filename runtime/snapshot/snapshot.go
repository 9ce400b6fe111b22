// Package snapshot keeps the file systems of containers: for each container a writable directory over the unpacked layers of
// its image, and read-only views of images for image volumes.
//
// The layers are snapshots of a containerd snapshotter, shared between all images and containers. A container's own
// directory is not: making it costs three directories and a small file, and no database transaction and no sync, because a
// machine that loses power loses its containers anyway. What holds the layers for all containers of one image together is
// one read-only view, a root for the garbage collector: the layers stay while a container uses them, also across restarts,
// and also when the image itself is removed meanwhile. All calls are idempotent.
package snapshot

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/continuity/fs"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/peapod/peapod/internal/atomicfile"
)

const (
	// viewPrefix sets our views apart from the layers of images (named by chain ID) and from those being unpacked.
	viewPrefix = "view/"
	// gcRootLabel tells the metadata database that a snapshot is in use for itself.
	gcRootLabel = "containerd.io/gc.root"

	// Of each container's directory: what it wrote, overlay's own, and the file that names the layers beneath.
	upperDir, workDir, chainFile = "fs", "work", "chain"
)

// Mount is one mount that makes up a snapshot, in the terms of mount(2); Options are "key=value" or flags ("ro", "rbind").
type Mount = mount.Mount

// Usage is what a snapshot holds itself, without the layers beneath it.
type Usage struct {
	Bytes  int64
	Inodes int64
}

// Config says where Snapshots live. All fields are required.
type Config struct {
	// Dir keeps the containers' directories. It must be on a file system that overlay can use as its upper layer.
	Dir string
	// Layers has the unpacked images, in Namespace.
	Layers    snapshots.Snapshotter
	Namespace string
	// Released is called after each removal: disk space is given back by CollectGarbage and by the collector of Layers, in
	// this order. It must not block.
	Released func()
}

// Snapshots makes and removes the file systems of containers. It is safe for concurrent use.
type Snapshots struct {
	cfg     Config
	options []string // for every overlay mount

	// mu guards the views: one is never dropped while a container comes to use it.
	mu    sync.Mutex
	users map[string]map[string]bool // chain ID -> ids of containers
	trash uint64                     // counts removals, for names
}

// Open reads which containers there are. There is nothing to close.
func Open(cfg Config) (*Snapshots, error) {
	s := &Snapshots{cfg: cfg, users: map[string]map[string]bool{}, trash: uint64(time.Now().UnixNano())}
	// As containerd does: with the index on, a layer could not be used by two mounts at once.
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		s.options = []string{"index=off"}
	}
	for _, dir := range []string{s.containers(), s.trashDir()} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make snapshot directory: %w", err)
		}
	}
	ids, err := s.list()
	if err != nil {
		return nil, err
	}
	for _, id := range ids {
		chain, err := s.chainOf(id)
		if errors.Is(err, os.ErrNotExist) {
			continue // Prepare was interrupted; its caller repeats or removes it
		}
		if err != nil {
			return nil, err
		}
		s.use(chain, id)
	}
	return s, nil
}

func (s *Snapshots) containers() string { return filepath.Join(s.cfg.Dir, "containers") }

func (s *Snapshots) trashDir() string { return filepath.Join(s.cfg.Dir, "trash") }

// dir is the directory of a container. Its name is the id, escaped.
func (s *Snapshots) dir(id string) (string, error) {
	name := url.PathEscape(id)
	if name == "" || name == "." || name == ".." || len(name) > 255 {
		return "", fmt.Errorf("snapshot id %q cannot be a file name: %w", id, errdefs.ErrInvalidArgument)
	}
	return filepath.Join(s.containers(), name), nil
}

// Prepare makes the writable layer id over the image layers chainID ("" for an image without layers) and returns its
// mounts, for MountAt, or for MountMapped where owner says to whom the root of the container belongs. When id exists already its
// mounts are returned and the rest is ignored.
func (s *Snapshots) Prepare(ctx context.Context, id, chainID string, owner Owner) ([]Mount, error) {
	if owner == nil {
		owner = func(uid, gid uint32) (uint32, uint32, error) { return uid, gid, nil }
	}
	return s.make(ctx, id, chainID, owner)
}

// View is Prepare without the writable layer: the mounts are read-only.
func (s *Snapshots) View(ctx context.Context, id, chainID string) ([]Mount, error) {
	return s.make(ctx, id, chainID, nil)
}

// make makes what a container has: a writable layer whose root belongs to owner, or none for nil.
func (s *Snapshots) make(ctx context.Context, id, chainID string, owner Owner) ([]Mount, error) {
	dir, err := s.dir(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if mounts, err := s.mounts(ctx, id, dir); err == nil {
		return mounts, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("prepare snapshot %s: %w", id, err)
	}
	if err := s.ensureView(ctx, chainID); err != nil {
		return nil, fmt.Errorf("prepare snapshot %s: %w", id, err)
	}
	if err := s.makeDirs(ctx, dir, chainID, owner); err != nil {
		return nil, fmt.Errorf("prepare snapshot %s: %w", id, err)
	}
	s.use(chainID, id)
	mounts, err := s.mounts(ctx, id, dir)
	if err != nil {
		return nil, fmt.Errorf("prepare snapshot %s: %w", id, err)
	}
	return mounts, nil
}

// makeDirs makes a container's directory. The chain file comes last: without it the directory does not count.
func (s *Snapshots) makeDirs(ctx context.Context, dir, chainID string, owner Owner) error {
	// What an interrupted attempt left was never mounted.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	if owner != nil {
		// The root directory of the container is the upper one: it looks as the image's.
		mode, uid, gid := os.FileMode(0o755), uint32(0), uint32(0)
		lower, _, err := s.lower(ctx, chainID)
		if err != nil {
			return err
		}
		if len(lower) > 0 {
			var st unix.Stat_t
			if err := unix.Lstat(lower[0], &st); err != nil {
				return &os.PathError{Op: "stat", Path: lower[0], Err: err}
			}
			mode, uid, gid = os.FileMode(st.Mode&0o777), st.Uid, st.Gid
		}
		if uid, gid, err = owner(uid, gid); err != nil {
			return fmt.Errorf("give the root directory to its owner: %w", err)
		}
		upper := filepath.Join(dir, upperDir)
		if err := errors.Join(os.Mkdir(upper, 0o700), os.Chown(upper, int(uid), int(gid)), os.Chmod(upper, mode)); err != nil {
			return err
		}
		if err := os.Mkdir(filepath.Join(dir, workDir), 0o711); err != nil {
			return err
		}
	}
	return atomicfile.Replace(filepath.Join(dir, chainFile), []byte(chainID), 0o600)
}

// mounts describes what is there; the error of what is not satisfies os.ErrNotExist. The caller holds mu.
func (s *Snapshots) mounts(ctx context.Context, id, dir string) ([]Mount, error) {
	chain, err := s.chainOf(id)
	if err != nil {
		return nil, err
	}
	lower, view, err := s.lower(ctx, chain)
	if err != nil {
		return nil, err
	}
	upper := filepath.Join(dir, upperDir)
	if _, err := os.Lstat(upper); errors.Is(err, os.ErrNotExist) {
		if len(view) == 0 { // an image without layers
			return nil, fmt.Errorf("the image has no layers to view: %w", errdefs.ErrFailedPrecondition)
		}
		return view, nil
	} else if err != nil {
		return nil, err
	}
	if len(lower) == 0 {
		return []Mount{{Type: "bind", Source: upper, Options: []string{"rw", "rbind"}}}, nil
	}
	options := append([]string{}, s.options...)
	options = append(options, "workdir="+filepath.Join(dir, workDir), "upperdir="+upper, "lowerdir="+strings.Join(lower, ":"))
	return []Mount{{Type: "overlay", Source: "overlay", Options: options}}, nil
}

// Mounts returns the mounts of the snapshot id; the error of one that does not exist satisfies os.ErrNotExist.
func (s *Snapshots) Mounts(ctx context.Context, id string) ([]Mount, error) {
	dir, err := s.dir(id)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	mounts, err := s.mounts(ctx, id, dir)
	if err != nil {
		return nil, fmt.Errorf("read mounts of snapshot %s: %w", id, err)
	}
	return mounts, nil
}

// Remove gives up the snapshot id. It must not be mounted any more. One that does not exist is no error.
func (s *Snapshots) Remove(_ context.Context, id string) error {
	dir, err := s.dir(id)
	if err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	chain, chainErr := s.chainOf(id)
	s.trash++
	err = os.Rename(dir, filepath.Join(s.trashDir(), fmt.Sprint(s.trash)))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove snapshot %s: %w", id, err)
	}
	if chainErr == nil {
		delete(s.users[chain], id)
	}
	s.cfg.Released()
	return nil
}

// Usage counts what the snapshot id holds. Cost: it walks the writable layer.
func (s *Snapshots) Usage(ctx context.Context, id string) (Usage, error) {
	dir, err := s.dir(id)
	if err != nil {
		return Usage{}, err
	}
	upper := filepath.Join(dir, upperDir)
	if _, err := os.Lstat(upper); errors.Is(err, os.ErrNotExist) {
		if _, err := os.Lstat(dir); err != nil {
			return Usage{}, fmt.Errorf("measure snapshot %s: %w", id, err)
		}
		return Usage{}, nil // a view
	}
	u, err := fs.DiskUsage(ctx, upper)
	if err != nil {
		return Usage{}, fmt.Errorf("measure snapshot %s: %w", id, err)
	}
	return Usage{Bytes: u.Size, Inodes: u.Inodes}, nil
}

// List returns the ids of all snapshots, in no order, for its caller to remove those that belong to no container.
func (s *Snapshots) List(context.Context) ([]string, error) { return s.list() }

func (s *Snapshots) list() ([]string, error) {
	entries, err := os.ReadDir(s.containers())
	if err != nil {
		return nil, fmt.Errorf("list snapshots: %w", err)
	}
	ids := make([]string, 0, len(entries))
	for _, e := range entries {
		id, err := url.PathUnescape(e.Name())
		if err != nil {
			return nil, fmt.Errorf("list snapshots: %w", err)
		}
		ids = append(ids, id)
	}
	return ids, nil
}

func (s *Snapshots) chainOf(id string) (string, error) {
	dir, err := s.dir(id)
	if err != nil {
		return "", err
	}
	data, err := os.ReadFile(filepath.Join(dir, chainFile))
	return string(data), err
}

func (s *Snapshots) use(chain, id string) {
	if s.users[chain] == nil {
		s.users[chain] = map[string]bool{}
	}
	s.users[chain][id] = true
}

// scope gives a caller's context the namespace of the layers.
func (s *Snapshots) scope(ctx context.Context) context.Context {
	return namespaces.WithNamespace(ctx, s.cfg.Namespace)
}
