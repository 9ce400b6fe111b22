// Package etcd is the store for several servers: the objects are in an etcd that all of them share, behind upstream's etcd3
// store and its watch cache. It offers what package store offers, so that the API server cannot tell which it has.
//
// All resources share one connection; each has a watch stream of its own, so that asking for the progress of one is not held
// up by another.
package etcd

import (
	"context"
	"errors"
	"fmt"
	"path"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	etcdfeature "k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/clock"
)

// Config says where etcd is and how it is reached. The names of its flags are kube-apiserver's.
type Config struct {
	// Servers are the URLs of etcd's members: https, or http on loopback.
	Servers []string
	// CAFile verifies etcd's certificate: the system's authorities if empty. CertFile and KeyFile are shown to etcd; both or
	// neither. They are read anew for each connection.
	CAFile, CertFile, KeyFile string
	// Prefix precedes all keys: DefaultPrefix if empty.
	Prefix string
	// CompactionInterval is how long etcd keeps history: DefaultCompactionInterval if zero, for ever (another compacts) if
	// negative.
	CompactionInterval time.Duration
}

// Defaults, which are kube-apiserver's.
const (
	DefaultPrefix             = "/registry"
	DefaultCompactionInterval = storagebackend.DefaultCompactInterval
)

const (
	// reachTimeout is how long Open waits for an etcd that takes writes.
	reachTimeout = 10 * time.Second
	// probeTimeout bounds the question whether etcd answers; probeInterval is how long an answer is good for.
	probeTimeout  = storagebackend.DefaultReadinessTimeout
	probeInterval = time.Second
	// Silence after which a connection is tested, and given up; upstream's.
	keepAlive, keepAliveTimeout = 30 * time.Second, 10 * time.Second
)

// Store is a connection to etcd and the watch caches over it.
type Store struct {
	cfg       Config
	client    *clientv3.Client
	compactor interface {
		etcd3.Compactor
		Stop()
	}

	// mu guards resources and closed.
	mu        sync.Mutex
	resources []*resource
	closed    bool

	// probeMu guards what the last probe found.
	probeMu  sync.Mutex
	probedAt time.Time
	probed   error
}

// errClosed is what is wrong with a store that has been closed.
var errClosed = errors.New("the store is closed")

// Open connects to etcd and returns once it answers as a whole: a member without a leader does not do. Its errors say what is
// wrong with which server, and what to do.
func Open(ctx context.Context, cfg Config) (*Store, error) {
	if cfg.Prefix == "" {
		cfg.Prefix = DefaultPrefix
	}
	if cfg.CompactionInterval == 0 {
		cfg.CompactionInterval = DefaultCompactionInterval
	}
	tlsConfig, err := cfg.transport()
	if err != nil {
		return nil, err
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints: cfg.Servers, TLS: tlsConfig, Logger: zap.NewNop(),
		DialKeepAliveTime: keepAlive, DialKeepAliveTimeout: keepAliveTimeout,
	})
	if err != nil {
		return nil, fmt.Errorf("set up the connection to etcd: %w", err)
	}
	client.KV = etcd3.NewETCDLatencyTracker(client.KV)
	s := &Store{cfg: cfg, client: client}
	reaching, cancel := context.WithTimeout(ctx, reachTimeout)
	defer cancel()
	if err := s.ask(reaching); err != nil {
		return nil, errors.Join(cfg.explain(ctx, tlsConfig, err), client.Close())
	}
	// Whether reads can be served from the cache depends on etcd's version.
	etcdfeature.DefaultFeatureSupportChecker.CheckClient(client.Ctx(), client, storage.RequestWatchProgress)
	s.compactor = etcd3.NewCompactor(client, max(0, cfg.CompactionInterval), clock.RealClock{}, nil)
	return s, nil
}

// ask reads a key that need not exist, as upstream does: etcd answers only while a majority of it agrees.
func (s *Store) ask(ctx context.Context) error {
	_, err := s.client.Get(ctx, path.Join("/", s.cfg.Prefix, "health"))
	return err
}

// Ready returns why the store serves nobody, nil if it does. Etcd is asked at most once a second.
func (s *Store) Ready() error {
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if closed {
		return errClosed
	}
	s.probeMu.Lock()
	defer s.probeMu.Unlock()
	if time.Since(s.probedAt) < probeInterval {
		return s.probed
	}
	ctx, cancel := context.WithTimeout(s.client.Ctx(), probeTimeout)
	defer cancel()
	if s.probed = s.ask(ctx); s.probed != nil {
		s.probed = fmt.Errorf("error getting data from etcd: %w", s.probed)
	}
	s.probedAt = time.Now()
	return s.probed
}

// Wait returns once every resource's watch cache has its first list.
func (s *Store) Wait(ctx context.Context) error {
	s.mu.Lock()
	resources := append([]*resource(nil), s.resources...)
	s.mu.Unlock()
	for _, r := range resources {
		if err := r.cache.Wait(ctx); err != nil {
			return fmt.Errorf("fill the watch cache of %s: %w", r.name, err)
		}
	}
	return nil
}

// Close ends all watches and closes the connection. It may be called more than once.
func (s *Store) Close() error {
	s.mu.Lock()
	closed, resources := s.closed, s.resources
	s.closed, s.resources = true, nil
	s.mu.Unlock()
	if closed {
		return nil
	}
	for _, r := range resources {
		r.destroy()
	}
	s.compactor.Stop()
	if err := s.client.Close(); err != nil && !errors.Is(err, context.Canceled) {
		return fmt.Errorf("close the connection to etcd: %w", err)
	}
	return nil
}

// Decorator makes the generic registry use the store.
func (s *Store) Decorator() generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, resourcePrefix string,
		keyFunc func(obj runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
		attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		raw, stop, err := s.uncached(config, resourcePrefix, newFunc, newListFunc)
		if err != nil {
			return nil, nil, err
		}
		c, err := cacher.NewCacherFromConfig(cacher.Config{
			Storage: raw, Versioner: storage.APIObjectVersioner{}, GroupResource: config.GroupResource,
			EventsHistoryWindow: config.EventsHistoryWindow, ResourcePrefix: resourcePrefix, KeyFunc: keyFunc,
			NewFunc: newFunc, NewListFunc: newListFunc, GetAttrsFunc: attrs, IndexerFuncs: triggers, Indexers: indexers,
			Codec: config.Codec,
		})
		if err != nil {
			stop()
			return nil, nil, fmt.Errorf("make the watch cache of %s: %w", config.GroupResource, err)
		}
		delegator := cacher.NewCacheDelegator(c, raw)
		r := &resource{name: config.GroupResource.String(), cache: c}
		r.destroy = sync.OnceFunc(func() {
			delegator.Stop()
			c.Stop()
			stop()
		})
		if !s.add(r) {
			r.destroy()
			return nil, nil, fmt.Errorf("make the storage of %s: %w", config.GroupResource, errClosed)
		}
		return delegator, r.destroy, nil
	}
}

// add has Close destroy r; false if the store is closed already.
func (s *Store) add(r *resource) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closed {
		s.resources = append(s.resources, r)
	}
	return !s.closed
}
