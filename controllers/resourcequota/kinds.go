package resourcequota

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/internal/kindmapper"
	"github.com/peapod/peapod/internal/synced"
)

// kinds watches, by metadata alone, the kinds of which some quota counts the objects: no others, so that a cluster without
// such quotas pays nothing.
type kinds struct {
	metadata metadata.Interface
	mapper   kindmapper.Mapper
	// deleted is called with the namespace of each object that goes.
	deleted func(gr schema.GroupResource, namespace string)

	mu      sync.Mutex
	watches map[schema.GroupResource]*watch
	running sync.WaitGroup
}

type watch struct {
	informer cache.SharedIndexInformer
	synced   cache.DoneChecker
	stop     context.CancelFunc
}

// ensure watches the kind, if it is not yet, and waits for the first list. It returns false where no such kind with
// namespaces is served.
func (k *kinds) ensure(ctx context.Context, gr schema.GroupResource) (bool, error) {
	w, err := k.watch(ctx, gr)
	if w == nil || err != nil {
		return false, err
	}
	if !synced.Wait(ctx, synced.Limit, w.synced) {
		return false, fmt.Errorf("list %s: no answer within %s", gr, synced.Limit)
	}
	return true, nil
}

func (k *kinds) watch(ctx context.Context, gr schema.GroupResource) (*watch, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if w := k.watches[gr]; w != nil {
		return w, nil
	}
	gvr, served, err := k.resolve(gr)
	if !served || err != nil {
		return nil, err
	}
	informer := metadatainformer.NewFilteredMetadataInformer(k.metadata, gvr, metav1.NamespaceAll, 0,
		cache.Indexers{cache.NamespaceIndex: cache.MetaNamespaceIndexFunc}, nil).Informer()
	if err := informer.SetTransform(identity); err != nil {
		return nil, fmt.Errorf("watch %s: %w", gr, err)
	}
	handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			k.deleted(gr, name.Namespace)
		}
	}})
	if err != nil {
		return nil, fmt.Errorf("watch %s: %w", gr, err)
	}
	ctx, stop := context.WithCancel(ctx)
	w := &watch{informer, handle.HasSyncedChecker(), stop}
	k.watches[gr] = w
	k.running.Go(func() { informer.RunWithContext(ctx) })
	return w, nil
}

// identity keeps of an object that it is there.
func identity(obj any) (any, error) {
	m, ok := obj.(*metav1.PartialObjectMetadata)
	if !ok {
		return obj, nil
	}
	return &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{
		Name: m.Name, Namespace: m.Namespace, UID: m.UID, ResourceVersion: m.ResourceVersion,
	}}, nil
}

// resolve finds the version in which a kind with namespaces is served.
func (k *kinds) resolve(gr schema.GroupResource) (schema.GroupVersionResource, bool, error) {
	gvk, err := k.mapper.KindFor(gr.WithVersion(""))
	if err == nil {
		var m *meta.RESTMapping
		if m, err = k.mapper.RESTMapping(gvk.GroupKind(), gvk.Version); err == nil {
			return m.Resource, m.Scope.Name() == meta.RESTScopeNameNamespace && m.Resource.GroupResource() == gr, nil
		}
	}
	if meta.IsNoMatchError(err) {
		return schema.GroupVersionResource{}, false, nil
	}
	return schema.GroupVersionResource{}, false, fmt.Errorf("find kind %s: %w", gr, err)
}

// list returns the objects of a kind that is watched.
func (k *kinds) list(gr schema.GroupResource, namespace string) ([]runtime.Object, error) {
	k.mu.Lock()
	w := k.watches[gr]
	k.mu.Unlock()
	if w == nil {
		return nil, fmt.Errorf("list %s: they are not watched", gr)
	}
	return byNamespace(w.informer.GetIndexer(), namespace)
}

// keep stops watching what is not needed any more.
func (k *kinds) keep(needed func(schema.GroupResource) bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for gr, w := range k.watches {
		if !needed(gr) {
			w.stop()
			delete(k.watches, gr)
		}
	}
}

// close stops all watches and waits for them.
func (k *kinds) close() {
	k.keep(func(schema.GroupResource) bool { return false })
	k.running.Wait()
}

func byNamespace(indexer cache.Indexer, namespace string) ([]runtime.Object, error) {
	list, err := indexer.ByIndex(cache.NamespaceIndex, namespace)
	if err != nil {
		return nil, err
	}
	out := make([]runtime.Object, 0, len(list))
	for _, obj := range list {
		if o, ok := obj.(runtime.Object); ok {
			out = append(out, o)
		}
	}
	return out, nil
}
