// Package image keeps the images of a node: it pulls them from registries, imports them from archives, unpacks their
// layers once for all containers, and answers the image half of the CRI.
//
// Content (manifests, configs and, until they are unpacked, layers) lies in a content store, unpacked layers in overlay
// snapshots, and a bbolt database ties both to names. What nothing names is garbage: it is collected after each removal and
// once after each Open, which also ends what a killed process left half done. Everything a pull or an import makes is held
// by a lease until its image has a name, so that kill -9 at any instant loses nothing named and leaks nothing unnamed.
//
// What a registry or an archive sends is untrusted: manifests and configs are bounded, layers are unpacked without
// following links out of their directory, credentials go only to the registry that the image names.
package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/core/metadata"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/core/snapshots/storage"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/containerd/containerd/v2/plugins/snapshots/overlay"
	"github.com/containerd/errdefs"
	"github.com/containerd/platforms"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
	"golang.org/x/sync/semaphore"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/runtime/snapshot"
)

const (
	namespace   = "peapod"
	snapshotter = "overlayfs"
	// pinnedLabel marks a name whose image the kubelet's image collector must leave alone.
	pinnedLabel = "peapod/pinned"
)

// Config says where a Store lives and how it reaches registries. Only Dir is required.
type Config struct {
	// Dir holds everything; it must be on a file system that overlay can use as its upper layer. One process at a time.
	Dir string
	// RegistryConfigDir has one folder a registry ("docker.io", "127.0.0.1:5000" or "127.0.0.1_5000_", "_default") with
	// either a hosts.toml (mirrors, CAs, headers) or *.crt (CAs) and *.cert with *.key (client certificates). "" for none.
	RegistryConfigDir string
	// InsecureRegistries are hosts ("registry.example:5000") whose certificate is not checked and that may speak plain HTTP.
	// Registries on loopback addresses without a folder of their own are treated so, too.
	InsecureRegistries []string
	// Platform to choose from images for several; "" for this machine's ("linux/amd64").
	Platform string
	// MaxParallelDownloads bounds the layers on their way at once, over all pulls. 0 for 6.
	MaxParallelDownloads int
	// PullStallTimeout ends a pull that received no byte for so long. 0 for 5 minutes.
	PullStallTimeout time.Duration
}

func (c *Config) complete() error {
	if c.Dir == "" {
		return errors.New("image store: no directory given")
	}
	if c.MaxParallelDownloads <= 0 {
		c.MaxParallelDownloads = 6
	}
	if c.PullStallTimeout <= 0 {
		c.PullStallTimeout = 5 * time.Minute
	}
	return nil
}

// Store is the images of a node. It is safe for concurrent use. It implements the CRI's image service
// (k8s.io/cri-api/pkg/apis ImageManagerService).
type Store struct {
	cfg      Config
	platform platforms.MatchComparer

	bolt      *bolt.DB
	meta      *metadata.DB
	overlay   snapshots.Snapshotter
	blobs     content.Store // bounded: see limits.go
	layers    snapshots.Snapshotter
	names     images.Store
	leases    leases.Manager
	snapshots *snapshot.Snapshots

	index     *index
	downloads *semaphore.Weighted
	flights   flights
	unpacking chainLocks
	// naming serialises changes of image names with the index that mirrors them.
	naming sync.Mutex
	// importing: the importer names its ingests by archive member, so two at once would mix.
	importing sync.Mutex

	gc       *collector
	gcPrimed bool // a collection has compared disk and database since Open; written by collections only
	// ctx carries the database namespace and the logger for work that outlives a caller; it ends with Close.
	ctx    context.Context
	cancel context.CancelFunc
	close  sync.Once
}

// Open opens or creates the store in cfg.Dir and starts its garbage collector, whose first run clears away what a killed
// predecessor left. It fails after 2 seconds when another process has the store open. End it with Close. ctx gives the
// logger; its cancellation does not close the store.
func Open(ctx context.Context, cfg Config) (_ *Store, err error) {
	if err := cfg.complete(); err != nil {
		return nil, err
	}
	platform := platforms.Default()
	if cfg.Platform != "" {
		p, err := platforms.Parse(cfg.Platform)
		if err != nil {
			return nil, fmt.Errorf("parse platform %q: %w", cfg.Platform, err)
		}
		platform = platforms.Only(p)
	}
	s := &Store{cfg: cfg, platform: platform, downloads: semaphore.NewWeighted(int64(cfg.MaxParallelDownloads))}
	s.ctx, s.cancel = context.WithCancel(withLibraryLog(namespaces.WithNamespace(context.WithoutCancel(ctx), namespace)))
	defer func() {
		if err != nil {
			err = errors.Join(err, s.closeFiles())
			s.cancel()
		}
	}()
	if err := s.openFiles(); err != nil {
		return nil, err
	}
	if err := s.dropLeases(); err != nil {
		return nil, err
	}
	if s.index, err = s.readIndex(); err != nil {
		return nil, err
	}
	s.gc = startCollector(s.ctx, s.collectOnce)
	return s, nil
}

func (s *Store) openFiles() error {
	if err := os.MkdirAll(s.cfg.Dir, 0o700); err != nil {
		return fmt.Errorf("make image directory: %w", err)
	}
	var err error
	path := filepath.Join(s.cfg.Dir, "meta.db")
	s.bolt, err = bolt.Open(path, 0o600, boltOptions())
	if errors.Is(err, bolterrors.ErrTimeout) {
		return fmt.Errorf("open image database %s: another process has it open", path)
	}
	if err != nil {
		return fmt.Errorf("open image database %s: %w", path, err)
	}
	contentDir := filepath.Join(s.cfg.Dir, "content")
	// What is half fetched is of a predecessor that was killed. The collector would miss what lacks some of its files.
	if err := os.RemoveAll(filepath.Join(contentDir, "ingest")); err != nil {
		return fmt.Errorf("remove interrupted downloads: %w", err)
	}
	blobs, err := local.NewStore(contentDir)
	if err != nil {
		return fmt.Errorf("open image content: %w", err)
	}
	snapshotDir := filepath.Join(s.cfg.Dir, snapshotter)
	if err := os.MkdirAll(snapshotDir, 0o700); err != nil {
		return fmt.Errorf("make snapshot directory: %w", err)
	}
	layerMeta, err := storage.NewMetaStore(filepath.Join(snapshotDir, "metadata.db"), func(o *bolt.Options) error {
		*o = *boltOptions()
		return nil
	})
	if err != nil {
		return fmt.Errorf("open snapshot database: %w", err)
	}
	s.overlay, err = overlay.NewSnapshotter(snapshotDir, overlay.WithMetaStore(layerMeta))
	if err != nil {
		return fmt.Errorf("open snapshots: %w", err)
	}
	if err := s.removeStrays(filepath.Join(snapshotDir, "snapshots")); err != nil {
		return fmt.Errorf("remove snapshots of an interrupted predecessor: %w", err)
	}
	s.meta = metadata.NewDB(s.bolt, blobs, map[string]snapshots.Snapshotter{snapshotter: s.overlay})
	if err := s.meta.Init(s.ctx); err != nil {
		return fmt.Errorf("prepare image database %s: %w", path, err)
	}
	s.blobs = boundedContent{s.meta.ContentStore()}
	s.layers = s.meta.Snapshotter(snapshotter)
	s.names = metadata.NewImageStore(s.meta)
	s.leases = metadata.NewLeaseManager(s.meta)
	s.snapshots, err = snapshot.Open(snapshot.Config{
		Dir:       s.cfg.Dir,
		Layers:    s.layers,
		Namespace: namespace,
		Released:  func() { s.gc.request() },
	})
	return err
}

// removeStrays removes directories of snapshots that the database does not know. A process that was killed between the making
// of such a directory and the note of it leaves it in the way of every snapshot to come, as its number is given again.
func (s *Store) removeStrays(dir string) error {
	err := s.overlay.(snapshots.Cleaner).Cleanup(s.ctx)
	if !errdefs.IsNotFound(err) {
		return err
	}
	// The database has never had a snapshot.
	if err := os.RemoveAll(dir); err != nil {
		return err
	}
	return os.Mkdir(dir, 0o700)
}

// boltOptions keep the databases small in memory: they hold a few hundred kilobytes, and the free list is cheap to rebuild.
func boltOptions() *bolt.Options {
	return &bolt.Options{
		Timeout:        2 * time.Second,
		NoFreelistSync: true,
		FreelistType:   bolt.FreelistMapType,
		NoStatistics:   true,
	}
}

// Close ends all pulls and closes the store. Snapshots that are mounted stay so. A second call does nothing.
func (s *Store) Close(context.Context) error {
	var err error
	s.close.Do(func() {
		s.cancel()
		s.flights.wait()
		s.gc.stop()
		s.importing.Lock()
		defer s.importing.Unlock()
		err = s.closeFiles()
	})
	return err
}

func (s *Store) closeFiles() error {
	var errs []error
	if s.overlay != nil {
		errs = append(errs, s.overlay.Close())
	}
	if s.bolt != nil {
		errs = append(errs, s.bolt.Close())
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close image store: %w", err)
	}
	return nil
}

// Snapshots are the file systems of containers, over the layers of this store's images.
func (s *Store) Snapshots() *snapshot.Snapshots { return s.snapshots }

// scope gives a caller's context the database namespace and the library logger.
func scope(ctx context.Context) context.Context {
	return withLibraryLog(namespaces.WithNamespace(ctx, namespace))
}

func (s *Store) logger() klog.Logger { return klog.FromContext(s.ctx) }
