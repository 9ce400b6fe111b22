package garbagecollector

import (
	"context"
	"sync"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"
)

// kind puts what a watch shows of one kind into the graph. There is no informer between: it would keep each object a second time, and
// most kinds have no objects, for each of which its queues and goroutines are some 60 kB.
type kind struct {
	*Collector
	gvr schema.GroupVersionResource
	// changed is called after each change; it may be nil.
	changed func()
	// listed is closed once all objects that there are were seen.
	listed chan struct{}
}

// follow watches the objects of a kind until ctx ends. It has its goroutine run by start, and calls changed, unless that is nil, after each
// change. What it returns is done once the objects that there were are in the graph.
func (c *Collector) follow(ctx context.Context, gvr schema.GroupVersionResource, changed func(), start *sync.WaitGroup) cache.DoneChecker {
	k := &kind{Collector: c, gvr: gvr, changed: changed, listed: make(chan struct{})}
	objects := c.metadata.Resource(gvr)
	source := cache.ToListWatcherWithWatchListSemantics(&cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			return objects.List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			return objects.Watch(ctx, o)
		},
	}, c.metadata)
	reflector := cache.NewReflectorWithOptions(source, &metav1.PartialObjectMetadata{}, k, cache.ReflectorOptions{Name: Name + " " + gvr.String()})
	start.Go(func() { reflector.RunWithContext(ctx) })
	return k
}

var _ cache.TransformingStore = (*kind)(nil)

// Name and Done make it a cache.DoneChecker.
func (k *kind) Name() string { return Name + " " + k.gvr.String() }

// Done is closed once all objects that there are were seen.
func (k *kind) Done() <-chan struct{} { return k.listed }

// Transformer has what is collected of a list, before Replace, be no more than what the graph is made from.
func (k *kind) Transformer() cache.TransformFunc { return ownership }

// Add takes in an object that is new, or that is seen for the first time.
func (k *kind) Add(obj any) error {
	k.take(obj)
	k.tell()
	return nil
}

// Update takes in a change.
func (k *kind) Update(obj any) error { return k.Add(obj) }

// Delete takes in that an object is gone.
func (k *kind) Delete(obj any) error {
	if m, ok := obj.(*metav1.PartialObjectMetadata); ok {
		k.gone(m.UID)
	}
	k.tell()
	return nil
}

// Replace takes in all objects that there are. Those that were seen before and are not among them went while nobody watched. At the first
// list there are none: that costs as much as it is long, the others as much as there are objects of all kinds.
func (k *kind) Replace(list []any, _ string) error {
	there := make(map[types.UID]bool, len(list))
	for _, obj := range list {
		there[k.take(obj)] = true
	}
	if cache.IsDone(k) {
		for _, uid := range k.of(k.gvr) {
			if !there[uid] {
				k.gone(uid)
			}
		}
	} else {
		close(k.listed)
	}
	k.tell()
	return nil
}

// Resync does nothing: the graph does not forget.
func (k *kind) Resync() error { return nil }

// take puts an object into the graph as it is now, and returns its UID.
func (k *kind) take(obj any) types.UID {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return ""
	}
	k.mu.Lock()
	t := k.graph.set(nodeOf(k.gvr, m))
	k.mu.Unlock()
	k.queue(t)
	return m.UID
}

func (k *kind) tell() {
	if k.changed != nil {
		k.changed()
	}
}

// ownership keeps of an object what the graph is made from.
func ownership(obj any) (any, error) {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return obj, nil
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
		OwnerReferences: m.OwnerReferences, Finalizers: m.Finalizers, DeletionTimestamp: m.DeletionTimestamp,
	}}, nil
}
