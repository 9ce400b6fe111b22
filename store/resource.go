package store

import (
	"context"
	"errors"
	"fmt"
	"path"
	"strings"
	"sync"
	"sync/atomic"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/value"
)

// ResourceConfig says what a resource's keys and objects look like.
type ResourceConfig struct {
	GroupResource schema.GroupResource
	// PathPrefix precedes all keys in the store, such as "/registry". It may be empty.
	PathPrefix string
	// ResourcePrefix is what the keys given to the storage begin with, such as "/pods".
	ResourcePrefix string
	// Codec encodes for the store and decodes from it.
	Codec runtime.Codec
	// Transformer encrypts what is stored; nil for none.
	Transformer value.Transformer
	// New and NewList make empty objects.
	New     func() runtime.Object
	NewList func() runtime.Object
}

// Resource is the storage.Interface of one resource.
type Resource struct {
	store *Store
	*family
	coder *coder

	groupResource schema.GroupResource
	// pathPrefix and resourcePrefix end in a slash.
	pathPrefix     string
	resourcePrefix string

	sized atomic.Bool
	// limitAtAnyRevision makes lists at resource version 0 observe their limit, as storage does that has no cache.
	limitAtAnyRevision bool

	// mu guards what follows.
	mu        sync.Mutex
	destroyed bool
	watchers  map[*watcher]struct{}
}

var _ storage.Interface = (*Resource)(nil)

func newResource(s *Store, cfg ResourceConfig) *Resource {
	pathPrefix := path.Join("/", cfg.PathPrefix)
	if !strings.HasSuffix(pathPrefix, "/") {
		pathPrefix += "/"
	}
	resourcePrefix := strings.TrimSuffix(cfg.ResourcePrefix, "/") + "/"
	return &Resource{
		store:          s,
		family:         s.familyOf(pathPrefix+resourcePrefix[1:], cfg.GroupResource),
		groupResource:  cfg.GroupResource,
		pathPrefix:     pathPrefix,
		resourcePrefix: resourcePrefix,
		coder: &coder{
			codec:       cfg.Codec,
			versioner:   storage.APIObjectVersioner{},
			transformer: cfg.Transformer,
			newFunc:     cfg.New,
			passing:     passes(cfg.New()),
			partial:     isPartial(cfg.New()),
			tolerant:    corruptionTolerated(),
		},
		watchers: map[*watcher]struct{}{},
	}
}

// Destroy ends the watches that were started here. Objects stay.
func (r *Resource) Destroy() {
	r.mu.Lock()
	first := !r.destroyed
	r.destroyed = true
	watchers := make([]*watcher, 0, len(r.watchers))
	for w := range r.watchers {
		watchers = append(watchers, w)
	}
	r.mu.Unlock()
	for _, w := range watchers {
		w.Stop()
	}
	if first {
		r.store.mu.Lock()
		r.family.served--
		r.store.mu.Unlock()
	}
}

// key returns the key in the store for what callers call key.
func (r *Resource) key(key string, recursive bool) (string, error) {
	key, err := storage.PrepareKey(r.resourcePrefix, key, recursive)
	if err != nil {
		return "", err
	}
	return r.pathPrefix + strings.TrimPrefix(key, "/"), nil
}

// keep says whether decoded objects should be kept for others.
func (r *Resource) keep() bool { return r.watched.Load() > 0 }

// Versioner implements storage.Interface.
func (r *Resource) Versioner() storage.Versioner { return r.coder.versioner }

// Stats implements storage.Interface.
func (r *Resource) Stats(context.Context) (storage.Stats, error) {
	r.store.mu.RLock()
	keys, bytes := r.Count()
	r.store.mu.RUnlock()
	stats := storage.Stats{ObjectCount: keys}
	if r.sized.Load() && keys > 0 {
		stats.EstimatedAverageObjectSizeBytes = bytes / keys
	}
	return stats, nil
}

// EnableResourceSizeEstimation makes Stats tell the average size too. The sizes are known exactly: keys is not called.
func (r *Resource) EnableResourceSizeEstimation(keys storage.KeysFunc) error {
	if keys == nil {
		return errors.New("KeysFunc cannot be nil")
	}
	if r.sized.Swap(true) {
		return errors.New("resourceSizeEstimator already enabled")
	}
	return nil
}

// ReadinessCheck implements storage.Interface.
func (r *Resource) ReadinessCheck() error {
	if err := r.store.Ready(); err != nil {
		return fmt.Errorf("%w: %w", storage.ErrStorageNotReady, err)
	}
	return nil
}

// GetCurrentResourceVersion implements storage.Interface.
func (r *Resource) GetCurrentResourceVersion(context.Context) (uint64, error) {
	return uint64(r.store.Revision()), nil
}

// CompactRevision implements storage.Interface.
func (r *Resource) CompactRevision() int64 {
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	return r.store.state.Compacted()
}

// RequestWatchProgress sends a bookmark to the watches of the resource that asked for progress.
func (r *Resource) RequestWatchProgress(context.Context) error {
	r.store.mu.RLock()
	defer r.store.mu.RUnlock()
	for w := range r.family.watchers {
		if w.progress {
			w.bookmark()
		}
	}
	return nil
}

// checkMinimum fails where the caller wants a revision that is yet to come.
func (r *Resource) checkMinimum(resourceVersion string, rev int64) error {
	if resourceVersion == "" {
		return nil
	}
	minimum, err := r.coder.versioner.ParseResourceVersion(resourceVersion)
	if err != nil {
		return apierrors.NewBadRequest(fmt.Sprintf("invalid resource version: %v", err))
	}
	if minimum > uint64(rev) {
		return storage.NewTooLargeResourceVersionError(minimum, uint64(rev), tooLargeRetrySeconds)
	}
	return nil
}
