package apiserver_test

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"

	openapi_v2 "github.com/google/gnostic-models/openapiv2"
	openapi_v3 "github.com/google/gnostic-models/openapiv3"
	"google.golang.org/protobuf/proto"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

const asTable = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"

func TestTables(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	made := must(c.CoreV1().Pods("n").Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	get := func(path string) (table metav1.Table) {
		t.Helper()
		status, _, body := do(t, s, "GET", path, "", "Accept", asTable)
		if err := json.Unmarshal([]byte(body), &table); err != nil || status != http.StatusOK || table.Kind != "Table" {
			t.Fatalf("GET %s: %d %s", path, status, body)
		}
		return table
	}
	table := get("/api/v1/namespaces/n/pods")
	var columns []string
	for _, c := range table.ColumnDefinitions {
		columns = append(columns, fmt.Sprint(c.Name, "/", c.Priority))
	}
	want := "[Name/0 Ready/0 Status/0 Restarts/0 Age/0 IP/1 Node/1 Nominated Node/1 Readiness Gates/1]"
	if fmt.Sprint(columns) != want {
		t.Errorf("columns are %v, want %s", columns, want)
	}
	if cells := fmt.Sprint(table.Rows[0].Cells[:3]); cells != "[p 0/1 Pending]" {
		t.Errorf("cells are %s", cells)
	}
	// A row carries the object's metadata, unless asked for all or none of it.
	if raw := string(table.Rows[0].Object.Raw); !strings.Contains(raw, `"kind":"PartialObjectMetadata"`) || strings.Contains(raw, `"spec"`) {
		t.Errorf("row holds %s", raw)
	}
	if raw := string(get("/api/v1/namespaces/n/pods?includeObject=Object").Rows[0].Object.Raw); !strings.Contains(raw, `"kind":"Pod"`) {
		t.Errorf("row holds %s", raw)
	}
	if one := get("/api/v1/namespaces/n/pods/p"); len(one.Rows) != 1 || one.ResourceVersion != made.ResourceVersion {
		t.Errorf("one object's table: %v", one)
	}
	if table.ResourceVersion == "" {
		t.Error("the list's table has no resource version")
	}
}

func TestPartialObjectMetadata(t *testing.T) {
	s := servertest.Start(t, nil)
	namespace(t, s.Client(t), "n")
	c := must(metadata.NewForConfig(s.Config("admin")))(t)
	all := c.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	if one := must(all.Get(ctx, "n", metav1.GetOptions{}))(t); one.Name != "n" {
		t.Errorf("got %v", one)
	}
	if list := must(all.List(ctx, metav1.ListOptions{}))(t); len(list.Items) != 1 || list.Items[0].Labels["kubernetes.io/metadata.name"] != "n" {
		t.Errorf("got %v", list)
	}
	w := must(all.Watch(ctx, metav1.ListOptions{}))(t)
	defer w.Stop()
	if e := <-w.ResultChan(); e.Object.(*metav1.PartialObjectMetadata).Name != "n" {
		t.Errorf("got %v", e)
	}
}

// TestItemsDoNotNameTheirKind: the list does, of kinds with a Go type; one object and an event of a watch name their own.
func TestItemsDoNotNameTheirKind(t *testing.T) {
	s := servertest.Start(t, nil)
	namespace(t, s.Client(t), "n")
	must(s.Client(t).CoreV1().ConfigMaps("n").Create(ctx, configMap("a"), metav1.CreateOptions{}))(t)
	for _, query := range []string{"", "?resourceVersion=0", "?limit=1", "?labelSelector=x!%3Dy", "?fieldSelector=metadata.name%3Da"} {
		_, _, body := do(t, s, "GET", "/api/v1/namespaces/n/configmaps"+query, "")
		if !strings.HasPrefix(body, `{"kind":"ConfigMapList","apiVersion":"v1","metadata":{`) || !strings.Contains(body, `"items":[{"metadata":{"name":"a"`) {
			t.Errorf("%s: %s", query, body)
		}
	}
	if _, _, body := do(t, s, "GET", "/api/v1/namespaces/n/configmaps/a", ""); !strings.HasPrefix(body, `{"kind":"ConfigMap","apiVersion":"v1","metadata":{`) {
		t.Errorf("one: %s", body)
	}
	if _, _, body := do(t, s, "GET", "/api/v1/namespaces/n/configmaps?watch=1&timeoutSeconds=1", ""); !strings.HasPrefix(body, `{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{`) {
		t.Errorf("watched: %s", body)
	}
}

func TestEncodings(t *testing.T) {
	s := servertest.Start(t, nil)
	config := s.Config("admin")
	config.ContentType = "application/vnd.kubernetes.protobuf"
	c := must(kubernetes.NewForConfig(config))(t)
	namespace(t, c, "n")
	big := configMap("big")
	big.Data = map[string]string{"k": strings.Repeat("x", 200_000)}
	must(c.CoreV1().ConfigMaps("n").Create(ctx, big, metav1.CreateOptions{}))(t)
	if got := must(c.CoreV1().ConfigMaps("n").List(ctx, metav1.ListOptions{}))(t); len(got.Items[0].Data["k"]) != 200_000 {
		t.Error("protobuf lost data")
	}
	status, header, body := do(t, s, "GET", "/api/v1/namespaces/n/configmaps", "", "Accept-Encoding", "gzip")
	if status != http.StatusOK || header.Get("Content-Encoding") != "gzip" || len(body) > 50_000 {
		t.Fatalf("%d %v, %d bytes", status, header, len(body))
	}
	z, err := gzip.NewReader(bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := io.ReadAll(z); err != nil || len(plain) < 200_000 {
		t.Errorf("%d bytes, %v", len(plain), err)
	}
	if status, _, _ := do(t, s, "GET", "/api/v1/namespaces", "", "Accept", "application/cbor"); status != http.StatusNotAcceptable {
		t.Errorf("CBOR: %d", status)
	}
	huge := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"huge"},"data":{"k":"` + strings.Repeat("x", 4<<20) + `"}}`
	if status, _, _ := do(t, s, "POST", "/api/v1/namespaces/n/configmaps", huge, "Content-Type", "application/json"); status != http.StatusRequestEntityTooLarge {
		t.Errorf("4 MiB: %d", status)
	}
}

func TestDiscovery(t *testing.T) {
	s := servertest.Start(t, nil)
	groups, lists, err := s.Client(t).Discovery().ServerGroupsAndResources() // aggregated
	if err != nil {
		t.Fatal(err)
	}
	if groups[0].Name != "" {
		t.Errorf("the first group is %q", groups[0].Name)
	}
	for _, list := range lists {
		plain := metav1.APIResourceList{}
		root := "/apis/"
		if list.GroupVersion == "v1" {
			root = "/api/"
		}
		_, _, body := do(t, s, "GET", root+list.GroupVersion, "")
		if err := json.Unmarshal([]byte(body), &plain); err != nil {
			t.Fatal(err)
		}
		names := func(l []metav1.APIResource) (n []string) {
			for _, r := range l {
				n = append(n, fmt.Sprint(r.Name, r.Kind, r.Namespaced, r.ShortNames))
			}
			slices.Sort(n)
			return n
		}
		if a, b := names(plain.APIResources), names(list.APIResources); !slices.Equal(a, b) {
			t.Errorf("%s: plain %v, aggregated %v", list.GroupVersion, a, b)
		}
	}
	for _, r := range must(s.Client(t).Discovery().ServerResourcesForGroupVersion("v1"))(t).APIResources {
		if r.Name == "pods" {
			if got := fmt.Sprint(r.SingularName, r.ShortNames, r.Categories, r.Namespaced, r.Verbs); got != "pod[po] [all] true [create delete deletecollection get list patch update watch]" {
				t.Errorf("pods are %s", got)
			}
		}
		if r.Name == "pods/eviction" && (r.Group != "policy" || r.Version != "v1" || r.Kind != "Eviction") {
			t.Errorf("pods/eviction is %v", r)
		}
	}
}

func TestOpenAPI(t *testing.T) {
	s := servertest.Start(t, nil)
	_, header, body := do(t, s, "GET", "/openapi/v2", "")
	for _, want := range []string{`"title":"Kubernetes"`, `"version":"v1.37.2"`, `"/api/v1/namespaces/{namespace}/pods"`, `"io.k8s.api.core.v1.PodSpec"`} {
		if !strings.Contains(body, want) {
			t.Errorf("v2 lacks %s", want)
		}
	}
	if strings.Contains(body, "__internal") {
		t.Error("v2 tells of internal versions")
	}
	if status, _, _ := do(t, s, "GET", "/openapi/v2", "", "If-None-Match", header.Get("Etag")); status != http.StatusNotModified {
		t.Errorf("unchanged v2: %d", status)
	}
	_, header, body = do(t, s, "GET", "/openapi/v2", "", "Accept", "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")
	if err := proto.Unmarshal([]byte(body), &openapi_v2.Document{}); err != nil || header.Get("Content-Type") != "application/com.github.proto-openapi.spec.v2.v1.0+protobuf" {
		t.Errorf("v2 in protobuf: %v, %v", err, header)
	}

	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	_, _, body = do(t, s, "GET", "/openapi/v3", "")
	if err := json.Unmarshal([]byte(body), &index); err != nil {
		t.Fatal(err)
	}
	for root, at := range index.Paths {
		status, header, body := do(t, s, "GET", at.ServerRelativeURL, "")
		if status != http.StatusOK || header.Get("Cache-Control") != "public, immutable" || !json.Valid([]byte(body)) {
			t.Errorf("v3 of %s: %d %v", root, status, header)
		}
		_, _, body = do(t, s, "GET", at.ServerRelativeURL, "", "Accept", "application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
		if err := proto.Unmarshal([]byte(body), &openapi_v3.Document{}); err != nil {
			t.Errorf("v3 of %s in protobuf: %v", root, err)
		}
	}
	if _, ok := index.Paths["apis/coordination.k8s.io/v1"]; !ok {
		t.Errorf("v3 lists %v", index.Paths)
	}
	_, _, body = do(t, s, "GET", "/openapi/v3/apis/coordination.k8s.io/v1?hash=old", "")
	if !strings.Contains(body, "io.k8s.api.coordination.v1.Lease") { // by way of a redirect
		t.Errorf("v3 with an old hash: %s", body)
	}
	if strings.Contains(body, `"group":"apps"`) {
		t.Error("a group version's v3 names DeleteOptions of other groups")
	}
	if status, _, _ := do(t, s, "GET", "/openapi/v3/apis/none/v1", ""); status != http.StatusNotFound {
		t.Errorf("v3 of no group: %d", status)
	}
	if status, _, _ := do(t, s, "GET", "/openapi/v2", "", "Accept", "text/html"); status != http.StatusNotAcceptable {
		t.Errorf("v2 as HTML: %d", status)
	}
}

// An event written in one group is read in the other.
func TestAlias(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	w := must(c.EventsV1().Events("n").Watch(ctx, metav1.ListOptions{}))(t)
	defer w.Stop()
	must(c.CoreV1().Events("n").Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "e"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Namespace: "n", Name: "p"},
		Message:        "hello", Reason: "Said", Type: "Normal",
	}, metav1.CreateOptions{}))(t)
	if e := <-w.ResultChan(); e.Object.(*eventsv1.Event).Note != "hello" {
		t.Errorf("got %v", e)
	}
	for selector, want := range map[string]int{"regarding.name=p": 1, "regarding.name=q": 0} {
		if got := must(c.EventsV1().Events("n").List(ctx, metav1.ListOptions{FieldSelector: selector}))(t); len(got.Items) != want {
			t.Errorf("%s: %d", selector, len(got.Items))
		}
	}
	if got := must(c.CoreV1().Events("n").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=p"}))(t); len(got.Items) != 1 {
		t.Errorf("%d", len(got.Items))
	}
	// Patching through the other version changes the same object, and fields are tracked in each version's own words.
	patched := must(c.EventsV1().Events("n").Patch(ctx, "e", "application/merge-patch+json", []byte(`{"metadata":{"labels":{"a":"b"}}}`), metav1.PatchOptions{}))(t)
	if patched.Labels["a"] != "b" || patched.Note != "hello" {
		t.Errorf("got %v", patched)
	}
	if got := must(c.CoreV1().Events("n").Get(ctx, "e", metav1.GetOptions{}))(t); got.Labels["a"] != "b" || len(got.ManagedFields) != 2 {
		t.Errorf("got %v", got)
	}
}

func TestServiceAllocation(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	service := func(name, ip string) *corev1.Service {
		return &corev1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: corev1.ServiceSpec{
				Type: corev1.ServiceTypeNodePort, ClusterIP: ip, Ports: []corev1.ServicePort{{Port: 80}},
			},
		}
	}
	one := must(c.CoreV1().Services("n").Create(ctx, service("one", ""), metav1.CreateOptions{}))(t)
	if one.Spec.ClusterIP == "" || one.Spec.Ports[0].NodePort == 0 {
		t.Fatalf("got %v", one.Spec)
	}
	_, err := c.CoreV1().Services("n").Create(ctx, service("two", one.Spec.ClusterIP), metav1.CreateOptions{})
	if err == nil || !strings.Contains(err.Error(), "provided IP is already allocated") {
		t.Errorf("taken address: %v", err)
	}
	must(c.CoreV1().Services("n").Create(ctx, service("dry", "10.96.1.1"), metav1.CreateOptions{DryRun: []string{"All"}}))(t)
	must(c.CoreV1().Services("n").Create(ctx, service("wet", "10.96.1.1"), metav1.CreateOptions{}))(t)

	// What is stored is taken again after a restart, and free once it is deleted.
	s.Stop()
	s = servertest.New(t, s.FS, func(*apiserver.Config) {})
	<-s.Ready()
	c = s.Client(t)
	if _, err := c.CoreV1().Services("n").Create(ctx, service("two", one.Spec.ClusterIP), metav1.CreateOptions{}); err == nil {
		t.Error("after a restart a taken address was handed out")
	}
	if err := c.CoreV1().Services("n").Delete(ctx, "one", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	two := service("two", one.Spec.ClusterIP)
	two.Spec.Ports[0].NodePort = one.Spec.Ports[0].NodePort
	must(c.CoreV1().Services("n").Create(ctx, two, metav1.CreateOptions{}))(t)
}
