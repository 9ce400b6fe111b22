package store

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/store/disk"
	"github.com/peapod/peapod/store/mvcc"
)

// errClosed is what writes get from a store that has been closed.
var errClosed = errors.New("the store is closed")

// Store holds the objects of all resources, under one sequence of revisions.
type Store struct {
	cfg  Config
	disk *disk.DB
	log  klog.Logger

	// mu guards what follows up to the blank line, and what watchers say it guards. Holders do no I/O, decode nothing and wait for nothing.
	mu       sync.RWMutex
	state    *mvcc.State
	families map[*mvcc.Resource]*family
	// closed says that no watch may begin.
	closed bool
	// trimmed is when old history was last let go, in Unix milliseconds.
	trimmed int64

	// writes is the queue of the committer.
	writes chan *write
	// expiry wakes the expirer when an object is to expire before nextExpiry, in Unix milliseconds.
	expiry     chan struct{}
	nextExpiry atomic.Int64
	bookmarks  *bookmarker

	// stop is closed by Close, finished by the committer when it leaves; done is waited for.
	stop     chan struct{}
	finished chan struct{}
	stopOnce sync.Once
	done     sync.WaitGroup
	closeErr error
}

// family is a resource's history and its watchers, whichever storage.Interface they came through.
type family struct {
	*mvcc.Resource
	// groupResource is how the first who served it called it, served how many do; guarded by Store.mu, as are watchers.
	groupResource schema.GroupResource
	served        int
	watchers      map[*watcher]struct{}
	// watched counts watchers of whole objects. While there are any, decoded objects are kept with the values.
	watched atomic.Int32
}

// Exists says whether there is a store in dir, whole or not.
func Exists(dir string) (bool, error) { return disk.Exists(dir) }

// Open opens the store in cfg.Dir, making it where there is none, and reads it into memory.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	cfg = cfg.withDefaults()
	log := klog.FromContext(ctx)
	db, err := disk.Open(disk.Config{Dir: cfg.Dir, FS: cfg.FS, Log: log})
	if err != nil {
		return nil, err
	}
	state := mvcc.New(mvcc.Limits{
		ResourceEvents: cfg.HistoryEvents,
		ResourceBytes:  cfg.HistoryBytes / 2,
		Bytes:          cfg.HistoryBytes,
		Age:            cfg.HistoryAge.Milliseconds(),
		ReadAge:        cfg.ReadAge.Milliseconds(),
	})
	rev, err := db.Load(state.Restore)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("open store %s: %w", cfg.Dir, err), db.Close())
	}
	if rev > 0 {
		state.Restored(rev)
	}
	s := &Store{
		cfg:      cfg,
		disk:     db,
		log:      log,
		state:    state,
		families: map[*mvcc.Resource]*family{},
		writes:   make(chan *write, maxBatchWrites),
		expiry:   make(chan struct{}, 1),
		stop:     make(chan struct{}),
		finished: make(chan struct{}),
	}
	s.bookmarks = newBookmarker(cfg.Clock, cfg.BookmarkInterval)
	s.done.Go(s.runCommitter)
	s.done.Go(s.runExpirer)
	s.done.Go(func() { s.bookmarks.run(s.stop) })
	return s, nil
}

// Close ends all watches, lets the writes that are under way finish, and closes the data directory. It may be called
// more than once.
func (s *Store) Close() error {
	s.stopOnce.Do(func() {
		close(s.stop)
		s.mu.Lock()
		s.closed = true
		var watchers []*watcher
		for _, f := range s.families {
			for w := range f.watchers {
				watchers = append(watchers, w)
			}
		}
		s.mu.Unlock()
		for _, w := range watchers {
			w.Stop()
		}
		s.done.Wait()
		s.closeErr = s.disk.Close()
	})
	return s.closeErr
}

// Revision returns the latest revision: the resourceVersion of what was last written.
func (s *Store) Revision() int64 {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Rev()
}

// Compact forgets the history before revision rev.
func (s *Store) Compact(rev int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.state.Compact(rev); err != nil {
		return fmt.Errorf("compact to revision %d: %w", rev, err)
	}
	// Watchers that have seen everything have missed nothing by it.
	now := s.state.Rev()
	for _, f := range s.families {
		for w := range f.watchers {
			if !w.behind {
				w.pos = max(w.pos, now)
			}
		}
	}
	return nil
}

// Ready returns why the store takes no writes, nil if it does.
func (s *Store) Ready() error {
	select {
	case <-s.stop:
		return errClosed
	default:
		return s.disk.Failed()
	}
}

// Decorator makes the generic registry use the store. The functions for triggers and indexers are hints for a watch
// cache that scans; they are not needed here.
func (s *Store) Decorator() generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, resourcePrefix string,
		_ func(obj runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
		_ storage.AttrFunc, _ storage.IndexerFuncs, _ *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		r, err := s.New(ResourceConfig{
			GroupResource:  config.GroupResource,
			PathPrefix:     config.Prefix,
			ResourcePrefix: resourcePrefix,
			Codec:          config.Codec,
			Transformer:    config.Transformer,
			New:            newFunc,
			NewList:        newListFunc,
		})
		if err != nil {
			return nil, nil, err
		}
		return r, r.Destroy, nil
	}
}

// New returns the storage of one resource. Any number may be made of the same, with different codecs too.
func (s *Store) New(cfg ResourceConfig) (*Resource, error) {
	if cfg.ResourcePrefix == "" || cfg.ResourcePrefix == "/" || !strings.HasPrefix(cfg.ResourcePrefix, "/") {
		return nil, fmt.Errorf("make the storage of %s: the resource prefix %q is not of the form /name", cfg.GroupResource, cfg.ResourcePrefix)
	}
	if cfg.Codec == nil || cfg.New == nil {
		return nil, fmt.Errorf("make the storage of %s: a codec and a constructor are needed", cfg.GroupResource)
	}
	return newResource(s, cfg), nil
}

// familyOf returns the family of the keys that begin with prefix, which ends in a slash, for one more who serves it.
func (s *Store) familyOf(prefix string, of schema.GroupResource) *family {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.state.Resource(prefix)
	f := s.families[r]
	if f == nil {
		f = &family{Resource: r, groupResource: of, watchers: map[*watcher]struct{}{}}
		s.families[r] = f
	}
	f.served++
	return f
}

// get returns what key holds and the revision at which that was so.
func (s *Store) get(key string) (*mvcc.Value, int64) {
	s.mu.RLock()
	defer s.mu.RUnlock()
	return s.state.Get(key), s.state.Rev()
}

// present returns a view of the latest revision.
func (s *Store) present() *mvcc.View {
	s.mu.RLock()
	v := s.state.Present()
	s.mu.RUnlock()
	if v == nil {
		s.mu.Lock()
		v = s.state.View()
		s.mu.Unlock()
	}
	return v
}

// at returns a view of f at revision rev.
func (s *Store) at(f *family, rev int64) (*mvcc.View, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.At(f.Resource, rev)
}
