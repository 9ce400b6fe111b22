package store

import (
	"reflect"
	goruntime "runtime"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/store/mvcc"
)

// TestDecodeOnce checks that watchers and lists share what a write decoded, and that it goes with the last watcher.
func TestDecodeOnce(t *testing.T) {
	r, _ := newCoreStorage(t)
	w := watchCore(t, r)
	v := createCore(t, r, "p")
	<-w.ResultChan()
	goruntime.GC()
	if r.coder.memo(v) == nil {
		t.Error("a write that is watched keeps no object")
	}
	w.Stop()
	for range w.ResultChan() {
	}
	if r.coder.memo(v) != nil {
		t.Error("the object stays after the last watcher has gone")
	}
	if err := r.GetList(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything}, &corev1.PodList{}); err != nil {
		t.Fatal(err)
	}
	if r.coder.memo(v) != nil {
		t.Error("a list keeps objects that nobody watches")
	}
}

// Objects of a type that is not sent are kept for watchers that keep up, and no longer than until garbage is collected; who comes later gets
// the same.
func TestPassingObjects(t *testing.T) {
	_, s := newSuite(t)
	w := startWatch(t, s, "0", nil)
	create(t, s, pod("p"), 0)
	first := next(t, w).Object
	v, _ := s.store.get(podKey("p"))
	if v.Memo() == nil {
		t.Error("a write that is watched keeps no object")
	}
	goruntime.GC()
	if s.coder.memo(v) != nil {
		t.Error("the object stays although nobody holds it")
	}
	late := next(t, startWatch(t, s, "0", nil)).Object
	if !reflect.DeepEqual(first, late) {
		t.Errorf("who came later got %+v, want %+v", late, first)
	}
}

// Who watches metadata has neither whole objects kept nor metadata in their place.
func TestMetadataIsNotKept(t *testing.T) {
	r, _ := newCoreStorage(t)
	part := newResource(r.store, ResourceConfig{
		GroupResource: r.groupResource, PathPrefix: r.pathPrefix, ResourcePrefix: strings.TrimSuffix(r.resourcePrefix, "/"), Codec: metadataOf{r.coder.codec},
		New: func() runtime.Object { return &metav1.PartialObjectMetadata{} },
	})
	t.Cleanup(part.Destroy)
	see := func(w watch.Interface, name string) {
		t.Helper()
		if m, ok := (<-w.ResultChan()).Object.(*metav1.PartialObjectMetadata); !ok || m.Name != name || m.ResourceVersion == "" {
			t.Errorf("a watcher of metadata sees %+v, want that of %s", m, name)
		}
	}
	metadata := watchCore(t, part)
	v := createCore(t, r, "a")
	see(metadata, "a")
	if v.Memo() != nil {
		t.Error("an object is kept of which only metadata is watched")
	}
	whole := watchCore(t, r)
	<-whole.ResultChan()
	v = createCore(t, r, "b")
	<-whole.ResultChan()
	see(metadata, "b")
	if r.coder.memo(v) == nil {
		t.Error("metadata took the place of the whole object")
	}
	metadata.Stop()
	for range metadata.ResultChan() {
	}
	if r.coder.memo(v) == nil {
		t.Error("the object went with a watcher of metadata")
	}
}

// metadataOf is a codec for metadata.
type metadataOf struct{ runtime.Codec }

func (c metadataOf) Decode(data []byte, _ *schema.GroupVersionKind, into runtime.Object) (runtime.Object, *schema.GroupVersionKind, error) {
	whole, gvk, err := c.Codec.Decode(data, nil, nil)
	if err != nil {
		return nil, nil, err
	}
	into.(*metav1.PartialObjectMetadata).ObjectMeta = whole.(*corev1.Pod).ObjectMeta
	return into, gvk, nil
}

// watchCore watches all Pods.
func watchCore(t *testing.T, r *Resource) watch.Interface {
	t.Helper()
	w, err := r.Watch(t.Context(), "/pods", storage.ListOptions{Recursive: true, Predicate: storage.Everything})
	if err != nil {
		t.Fatal(err)
	}
	return w
}

// createCore creates a Pod and returns what is stored.
func createCore(t *testing.T, r *Resource, name string) *mvcc.Value {
	t.Helper()
	if err := r.Create(t.Context(), "/pods/default/"+name, corePod(name), &corev1.Pod{}, 0); err != nil {
		t.Fatal(err)
	}
	v, _ := r.store.get(r.Prefix + "default/" + name)
	return v
}
