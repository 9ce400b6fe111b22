package customresource_test

import (
	"context"
	"maps"
	"reflect"
	"slices"
	"sync"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3/testserver"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/store/etcd"
)

// storages counts those that there are of widgets, by what they read stored objects into.
type storages struct {
	mu sync.Mutex
	of map[reflect.Type]int
}

func (s *storages) now() map[reflect.Type]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.of)
}

func (s *storages) decorate(make generic.StorageDecorator) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newFunc, newList func() runtime.Object,
		attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		made, destroy, err := make(config, prefix, key, newFunc, newList, attrs, triggers, indexers)
		if err != nil || config.GroupResource != widgetsV1.GroupResource() {
			return made, destroy, err
		}
		count := func(n int) {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.of[reflect.TypeOf(newFunc())] += n
		}
		count(1)
		return made, sync.OnceFunc(func() { count(-1); destroy() }), nil
	}
}

var onlyMetadata = reflect.TypeFor[*metav1.PartialObjectMetadata]()

// within are the options with which informers watch.
func within() metav1.ListOptions {
	return metav1.ListOptions{SendInitialEvents: ptr.To(true), ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan, AllowWatchBookmarks: true}
}

// Whoever watches the metadata of custom objects within the process sees what the network sees, and has nothing made of their definition.
func TestMetadataWithinTheProcess(t *testing.T) {
	t.Run("store", func(t *testing.T) { metadataWithin(t, nil) })
	t.Run("etcd", func(t *testing.T) {
		st, err := etcd.Open(limit(t), etcd.Config{Servers: testserver.RunEtcd(t, nil).Endpoints()})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := st.Close(); err != nil {
				t.Error(err)
			}
		})
		metadataWithin(t, st.Decorator())
	})
}

// metadataWithin is TestMetadataWithinTheProcess with objects in a storage; nil: a server's own.
func metadataWithin(t *testing.T, in generic.StorageDecorator) {
	count := &storages{of: map[reflect.Type]int{}}
	s := servertest.Start(t, func(c *apiserver.Config) {
		if in != nil {
			c.Storage = in
		}
		c.Storage = count.decorate(c.Storage)
	})
	w := newWorld(t, s)
	ctx := limit(t)
	w.define(widgets)
	w.eventually("widgets are served", func() bool {
		_, err := w.discovery.ServerResourcesForGroupVersion("example.com/v1")
		return err == nil
	})
	mine, err := inprocess.NewMetadata(s.Transport.Config(&user.DefaultInfo{Name: "informer"}))
	if err != nil {
		t.Fatal(err)
	}
	network, err := metadata.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	begin := func(c metadata.Interface, version string) watch.Interface {
		t.Helper()
		gvr := widgetsV1
		gvr.Version = version
		started, err := c.Resource(gvr).Watch(ctx, within())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(started.Stop)
		return started
	}
	one, other := begin(mine, "v1"), begin(mine, "v1beta1")
	if got := count.now(); got[onlyMetadata] != 1 || len(got) != 1 {
		t.Errorf("to watch metadata in two versions there are storages of %v", got)
	}
	seen := begin(network, "v1")
	if got := count.now(); len(got) != 2 {
		t.Errorf("with a watch over the network there are storages of %v", got)
	}
	compare := func(kind watch.EventType) {
		t.Helper()
		want := next(t, ctx, seen)
		for _, mine := range []watch.Interface{one, other} {
			got := next(t, ctx, mine)
			if want.Type != kind || got.Type != kind {
				t.Fatalf("%s: within the process %+v, the network %+v", kind, got, want)
			}
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s: within the process %+v, the network %+v", kind, got.Object, want.Object)
			}
		}
	}
	compare(watch.Bookmark)
	w.mustMake("a", "{size: 1}")
	compare(watch.Added)
	change := []byte(`{"metadata":{"labels":{"k":"v"},"finalizers":["example.com/f"]}}`)
	if _, err := w.widgets().Patch(ctx, "a", types.MergePatchType, change, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	compare(watch.Modified)
	if err := w.widgets().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	compare(watch.Modified)
	if _, err := w.widgets().Patch(ctx, "a", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	compare(watch.Deleted)
	if err := w.definitions.ApiextensionsV1().CustomResourceDefinitions().Delete(ctx, "widgets.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for range one.ResultChan() { // until it ends, with the definition
	}
	w.eventually("the storage of metadata goes with the definition", func() bool { return count.now()[onlyMetadata] == 0 })
}

func next(t *testing.T, ctx context.Context, w watch.Interface) watch.Event {
	t.Helper()
	select {
	case e, ok := <-w.ResultChan():
		if !ok {
			t.Fatal("the watch has ended")
		}
		return e
	case <-ctx.Done():
		t.Fatal("no event")
	}
	panic("unreachable")
}

// The copies from which the server writes the status of definitions lack managed fields; what is stored does not come to lack anything.
func TestStatusIsWrittenFromLeanCopies(t *testing.T) {
	w := newWorld(t, servertest.Start(t, nil))
	ctx := limit(t)
	crd := parse[apiextensionsv1.CustomResourceDefinition](t, widgets)
	crd.Annotations = map[string]string{"example.com/note": "stays"}
	made, err := w.definitions.ApiextensionsV1().CustomResourceDefinitions().Create(ctx, crd, metav1.CreateOptions{FieldManager: "applier"})
	if err != nil {
		t.Fatal(err)
	}
	now := w.established(made)
	if now.Annotations["example.com/note"] != "stays" {
		t.Errorf("annotations are %v", now.Annotations)
	}
	of := func(crd *apiextensionsv1.CustomResourceDefinition, manager string) int {
		return slices.IndexFunc(crd.ManagedFields, func(f metav1.ManagedFieldsEntry) bool { return f.Manager == manager && f.Subresource == "" })
	}
	was, is := of(made, "applier"), of(now, "applier")
	if was < 0 || is < 0 || !reflect.DeepEqual(made.ManagedFields[was].FieldsV1, now.ManagedFields[is].FieldsV1) {
		t.Errorf("managed fields were %+v, and are %+v", made.ManagedFields, now.ManagedFields)
	}
}
