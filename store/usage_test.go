package store

import (
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/apis/example"
	"k8s.io/apiserver/pkg/storage/etcd3/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

// What there is of each resource that is served, and how large the store is, is told; nothing of a resource that has gone, or of a store
// that is to be told of no more.
func TestUsageIsTold(t *testing.T) {
	s := openStore(t, Config{FS: vfs.NewMem()})
	open := func(of schema.GroupResource, prefix string) *Resource {
		r, err := s.New(ResourceConfig{GroupResource: of, ResourcePrefix: prefix, Codec: testCodec(),
			New: func() runtime.Object { return &example.Pod{} }, NewList: func() runtime.Object { return &example.PodList{} }})
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	pods := open(schema.GroupResource{Resource: "pods"}, "/pods")
	gone := open(schema.GroupResource{Group: "example.com", Resource: "empties"}, "/example.com/empties")
	for _, name := range []string{"a", "b"} {
		if err := pods.Create(t.Context(), "/pods/"+name, &example.Pod{ObjectMeta: metav1.ObjectMeta{Name: name}}, nil, 0); err != nil {
			t.Fatal(err)
		}
	}
	metrics.Register()
	// The first answer brings the gauges up to date that the second one has.
	scrape := func() string {
		text := ""
		for range 2 {
			w := httptest.NewRecorder()
			legacyregistry.Handler().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
			text = "\n" + w.Body.String()
		}
		return text
	}
	want := func(text, line string, there bool) {
		t.Helper()
		if strings.Contains(text, "\n"+line) != there {
			t.Errorf("%s: told is %t, want %t", line, !there, there)
		}
	}
	stop := s.Tell()
	text := scrape()
	want(text, `apiserver_resource_objects{group="",resource="pods"} 2`, true)
	want(text, `apiserver_resource_objects{group="example.com",resource="empties"} 0`, true)
	want(text, `apiserver_storage_size_bytes{storage_cluster_id="etcd-0"} `, true)
	want(text, `apiserver_storage_size_bytes{storage_cluster_id="etcd-0"} 0`, false)
	if size := s.Usage().Resources[schema.GroupResource{Resource: "pods"}].EstimatedAverageObjectSizeBytes; size < 50 || size > 500 {
		t.Errorf("a Pod takes %d bytes", size)
	}
	gone.Destroy()
	gone.Destroy()
	want(scrape(), `apiserver_resource_objects{group="example.com"`, false)
	stop()
	text = scrape()
	want(text, `apiserver_resource_objects{`, false)
	want(text, `apiserver_storage_size_bytes{`, false)
}
