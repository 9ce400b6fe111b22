package apiserver

import (
	"context"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	flowcontrolrequest "k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/tools/cache"
)

// objectCounts tells flow control how many objects a list has to go through. Storages are asked when that is wanted, and not every
// minute as upstream's are.
type objectCounts struct {
	mu     sync.Mutex
	counts map[string]*objectCount
}

var _ flowcontrolrequest.StorageObjectCountTracker = (*objectCounts)(nil)

// objectCount is what one resource has.
type objectCount struct {
	storage storage.Interface

	mu    sync.Mutex
	asked time.Time
	stats storage.Stats
	err   error
}

const (
	// countAge is how long a count is good for: with etcd each is a request to it, which countWait bounds.
	countAge  = 10 * time.Second
	countWait = time.Second
)

// decorate remembers the storages that decorator makes.
func (o *objectCounts) decorate(decorator generic.StorageDecorator) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, resourcePrefix string,
		keyFunc func(obj runtime.Object) (string, error), newFunc, newListFunc func() runtime.Object,
		attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		made, destroy, err := decorator(config, resourcePrefix, keyFunc, newFunc, newListFunc, attrs, triggers, indexers)
		if err != nil {
			return nil, nil, err
		}
		name, count := config.GroupResource.String(), &objectCount{storage: made}
		o.mu.Lock()
		o.counts[name] = count
		o.mu.Unlock()
		return made, func() {
			o.mu.Lock()
			if o.counts[name] == count { // a kind that users define may have a newer one
				delete(o.counts, name)
			}
			o.mu.Unlock()
			destroy()
		}, nil
	}
}

// Get implements flowcontrolrequest.StorageObjectCountTracker.
func (o *objectCounts) Get(resource string) (storage.Stats, error) {
	o.mu.Lock()
	c := o.counts[resource]
	o.mu.Unlock()
	if c == nil {
		return storage.Stats{}, flowcontrolrequest.ObjectCountNotFoundErr
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if time.Since(c.asked) > countAge {
		ctx, cancel := context.WithTimeout(context.Background(), countWait)
		defer cancel()
		c.stats, c.err = c.storage.Stats(ctx)
		c.asked = time.Now()
	}
	if c.err != nil {
		return storage.Stats{}, flowcontrolrequest.ObjectCountStaleErr
	}
	return c.stats, nil
}

// Set is called by registries that look at the clock, which these do not.
func (o *objectCounts) Set(string, storage.Stats) {}

// RunUntil has nothing to do.
func (o *objectCounts) RunUntil(<-chan struct{}) {}
