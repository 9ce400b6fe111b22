package customresource_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/apiserver/servertest"
)

const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.example.com}
spec:
  group: example.com
  scope: Namespaced
  names: {kind: Widget, plural: widgets, singular: widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas}
    additionalPrinterColumns: [{name: Size, type: integer, jsonPath: .spec.size}]
    selectableFields: &selectable [{jsonPath: .spec.color}]
    schema: &schema
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [size]
            x-kubernetes-validations: [{rule: "self.color != 'red' || self.size < 10", message: red ones are small}]
            properties:
              size: {type: integer, minimum: 1, description: How large it is.}
              color: {type: string, default: blue}
              replicas: {type: integer}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, n: {type: integer}}}
          status: {type: object, properties: {replicas: {type: integer}, phase: {type: string}}}
  - {name: v1beta1, served: true, storage: false, schema: *schema, selectableFields: *selectable}
`

var widgetsV1 = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

// world is a server and its clients.
type world struct {
	*servertest.Server
	t           *testing.T
	definitions extensions.Interface
	objects     dynamic.Interface
	discovery   *discovery.DiscoveryClient
}

func newWorld(t *testing.T, server *servertest.Server) *world {
	t.Helper()
	w := &world{Server: server, t: t}
	var err error
	if w.definitions, err = extensions.NewForConfig(server.Config("admin")); err != nil {
		t.Fatal(err)
	}
	if w.objects, err = dynamic.NewForConfig(server.Config("admin")); err != nil {
		t.Fatal(err)
	}
	if w.discovery, err = discovery.NewDiscoveryClientForConfig(server.Config("admin")); err != nil {
		t.Fatal(err)
	}
	return w
}

// limit ends what is not going to happen.
func limit(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func parse[T any](t *testing.T, text string) *T {
	t.Helper()
	var v T
	if err := yaml.Unmarshal([]byte(text), &v); err != nil {
		t.Fatal(err)
	}
	return &v
}

// define makes a definition and waits until its kind is served.
func (w *world) define(text string) *apiextensionsv1.CustomResourceDefinition {
	w.t.Helper()
	ctx := limit(w.t)
	crds := w.definitions.ApiextensionsV1().CustomResourceDefinitions()
	crd, err := crds.Create(ctx, parse[apiextensionsv1.CustomResourceDefinition](w.t, text), metav1.CreateOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return w.established(crd)
}

// established waits until a definition's kind is served.
func (w *world) established(crd *apiextensionsv1.CustomResourceDefinition) *apiextensionsv1.CustomResourceDefinition {
	w.t.Helper()
	ctx := limit(w.t)
	crds := w.definitions.ApiextensionsV1().CustomResourceDefinitions()
	events, err := crds.Watch(ctx, metav1.ListOptions{ResourceVersion: crd.ResourceVersion, FieldSelector: "metadata.name=" + crd.Name})
	if err != nil {
		w.t.Fatal(err)
	}
	defer events.Stop()
	for e := range events.ResultChan() {
		crd, _ = e.Object.(*apiextensionsv1.CustomResourceDefinition)
		for _, c := range crd.Status.Conditions {
			if c.Type == apiextensionsv1.Established && c.Status == apiextensionsv1.ConditionTrue {
				return crd
			}
		}
	}
	w.t.Fatalf("the definition is not established in time: %+v", crd.Status)
	return nil
}

// eventually asks until the answer is yes: for what follows a change without telling when.
func (w *world) eventually(what string, ask func() bool) {
	w.t.Helper()
	ctx := limit(w.t)
	for !ask() {
		select {
		case <-ctx.Done():
			w.t.Fatalf("%s: not in time", what)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func (w *world) widgets() dynamic.ResourceInterface {
	return w.objects.Resource(widgetsV1).Namespace("default")
}

// make creates a Widget of a spec in YAML.
func (w *world) make(name, spec string) (*unstructured.Unstructured, error) {
	w.t.Helper()
	u := &unstructured.Unstructured{Object: *parse[map[string]any](w.t, "apiVersion: example.com/v1\nkind: Widget\nmetadata: {name: "+name+"}\nspec: "+spec)}
	return w.widgets().Create(limit(w.t), u, metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
}

func (w *world) mustMake(name, spec string) *unstructured.Unstructured {
	w.t.Helper()
	u, err := w.make(name, spec)
	if err != nil {
		w.t.Fatal(err)
	}
	return u
}

// get is the body and status of an answer to a GET.
func (w *world) get(path string, header ...string) (string, int) {
	w.t.Helper()
	r, err := http.NewRequestWithContext(limit(w.t), http.MethodGet, w.URL+path, nil)
	if err != nil {
		w.t.Fatal(err)
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	answer, err := w.HTTP(w.t).Do(r)
	if err != nil {
		w.t.Fatal(err)
	}
	defer answer.Body.Close()
	b, err := io.ReadAll(answer.Body)
	if err != nil {
		w.t.Fatal(err)
	}
	return string(b), answer.StatusCode
}

func field(u *unstructured.Unstructured, path ...string) any {
	v, _, _ := unstructured.NestedFieldNoCopy(u.Object, path...)
	return v
}

func refused(t *testing.T, err error, text string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), text) {
		t.Errorf("got error %v, want one with %q", err, text)
	}
}

func TestObjects(t *testing.T) {
	w := newWorld(t, servertest.Start(t, nil))
	w.define(widgets)
	ctx := limit(t)

	_, err := w.make("bad", "{size: 0}")
	refused(t, err, "spec.size in body should be greater than or equal to 1")
	_, err = w.make("bad", "{size: 10, color: red}")
	refused(t, err, "red ones are small")
	_, err = w.make("bad", "{size: 1, weight: 2}")
	refused(t, err, `strict decoding error: unknown field "spec.weight"`)

	// It is defaulted and pruned, counts its generations by spec alone, and keeps status apart.
	made := w.mustMake("w", "{size: 1}")
	if field(made, "spec", "color") != "blue" || made.GetGeneration() != 1 || made.GetUID() == "" {
		t.Errorf("made %v", made)
	}
	u, err := w.widgets().Patch(ctx, "w", types.MergePatchType, []byte(`{"spec":{"size":2,"other":1},"status":{"phase":"Set"}}`), metav1.PatchOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if u.GetGeneration() != 2 || field(u, "spec", "other") != nil || field(u, "status") != nil {
		t.Errorf("patched to %v", u)
	}
	u, err = w.widgets().Patch(ctx, "w", types.MergePatchType, []byte(`{"spec":{"size":3},"status":{"phase":"Set","replicas":4}}`), metav1.PatchOptions{}, "status")
	if err != nil {
		t.Fatal(err)
	}
	if u.GetGeneration() != 2 || field(u, "spec", "size") != int64(2) || field(u, "status", "phase") != "Set" {
		t.Errorf("status patched to %v", u)
	}
	if _, err = w.widgets().Update(ctx, made, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("an update of an old version: %v", err)
	}

	if _, err = w.widgets().Patch(ctx, "w", types.MergePatchType, []byte(`{"spec":{"replicas":7}}`), metav1.PatchOptions{}, "scale"); err != nil {
		t.Fatal(err)
	}
	scale, err := w.widgets().Get(ctx, "w", metav1.GetOptions{}, "scale")
	if err != nil || scale.GetKind() != "Scale" || field(scale, "spec", "replicas") != int64(7) || field(scale, "status", "replicas") != int64(4) {
		t.Errorf("scale is %v, %v", scale, err)
	}

	// Two appliers own an element each of a list with keys.
	for _, who := range []string{"one", "two"} {
		patch := `{"apiVersion":"example.com/v1","kind":"Widget","metadata":{"name":"w"},"spec":{"parts":[{"name":"` + who + `"}]}}`
		if u, err = w.widgets().Patch(ctx, "w", types.ApplyPatchType, []byte(patch), metav1.PatchOptions{FieldManager: who}); err != nil {
			t.Fatal(err)
		}
	}
	if parts, _ := field(u, "spec", "parts").([]any); len(parts) != 2 {
		t.Errorf("after two appliers the parts are %v", parts)
	}

	w.mustMake("r", "{size: 1, color: red}")
	list, err := w.widgets().List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"})
	if err != nil || len(list.Items) != 1 || list.Items[0].GetName() != "r" {
		t.Errorf("red ones: %v, %v", list, err)
	}
	body, _ := w.get("/apis/example.com/v1/namespaces/default/widgets", "Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	table := parse[metav1.Table](t, body)
	if len(table.Rows) != 2 || table.ColumnDefinitions[1].Name != "Size" {
		t.Errorf("table: %s", body)
	}
	// The other version is the same object, and has no subresources of its own.
	other, err := w.objects.Resource(widgetsV1.GroupResource().WithVersion("v1beta1")).Namespace("default").Get(ctx, "w", metav1.GetOptions{})
	if err != nil || other.GetAPIVersion() != "example.com/v1beta1" || other.GetUID() != made.GetUID() {
		t.Errorf("in v1beta1: %v, %v", other, err)
	}
}

// Watches see every change in order, from any version that is still known.
func TestWatch(t *testing.T) {
	w := newWorld(t, servertest.Start(t, nil))
	w.define(widgets)
	ctx := limit(t)
	first := w.mustMake("a", "{size: 1}")
	for _, size := range []string{"2", "3"} {
		if _, err := w.widgets().Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"size":`+size+`}}`), metav1.PatchOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	events, err := w.widgets().Watch(ctx, metav1.ListOptions{ResourceVersion: first.GetResourceVersion()})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	if err := w.widgets().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []struct {
		event watch.EventType
		size  int64
	}{{watch.Modified, 2}, {watch.Modified, 3}, {watch.Deleted, 3}} {
		e := <-events.ResultChan()
		u, ok := e.Object.(*unstructured.Unstructured)
		if !ok || e.Type != want.event || field(u, "spec", "size") != want.size {
			t.Fatalf("got %s %v, want %+v", e.Type, e.Object, want)
		}
	}
}

// groups are the names in the plain list of groups.
func (w *world) groups() string {
	w.t.Helper()
	body, _ := w.get("/apis", "Accept", "application/json")
	var names []string
	for _, g := range parse[metav1.APIGroupList](w.t, body).Groups {
		names = append(names, g.Name)
	}
	return strings.Join(names, " ")
}

func TestDiscoveryAndOpenAPI(t *testing.T) {
	w := newWorld(t, servertest.Start(t, nil))
	const path = "/openapi/v3/apis/example.com/v1"
	if _, code := w.get("/apis/example.com/v1/widgets"); code != http.StatusNotFound {
		t.Errorf("before it is defined: %d", code)
	}
	if _, code := w.get(path); code != http.StatusNotFound {
		t.Errorf("OpenAPI before it is defined: %d", code)
	}
	before, _ := w.get("/openapi/v2")
	if strings.Contains(before, "com.example.v1") || !strings.Contains(before, "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition") {
		t.Error("OpenAPI v2 has the custom kind before it is defined, or lacks that of definitions")
	}
	w.define(widgets)
	w.eventually("the group is listed", func() bool { return strings.HasSuffix(w.groups(), " example.com") })
	if !strings.Contains(w.groups(), " apiextensions.k8s.io ") {
		t.Errorf("the groups are %s", w.groups())
	}
	var r []metav1.APIResource
	w.eventually("the kind is discovered", func() bool {
		preferred, err := w.discovery.ServerPreferredResources()
		if err != nil {
			t.Fatal(err)
		}
		for _, list := range preferred {
			if list.GroupVersion == "example.com/v1" {
				r = list.APIResources
			}
		}
		return r != nil
	})
	if len(r) != 1 || r[0].Kind != "Widget" || r[0].ShortNames[0] != "wd" || r[0].Categories[0] != "all" {
		t.Errorf("discovered %+v", r)
	}
	for _, p := range []string{path, "/openapi/v2"} {
		w.eventually(p, func() bool {
			body, _ := w.get(p)
			return strings.Contains(body, "com.example.v1.Widget") && strings.Contains(body, "How large it is.")
		})
	}
	if index, _ := w.get("/openapi/v3"); !strings.Contains(index, `"apis/example.com/v1beta1"`) || !strings.Contains(index, `"apis/apps/v1"`) {
		t.Errorf("index: %s", index)
	}

	// A changed definition is a changed document.
	const op = `{"op":"replace","path":"/spec/versions/N/schema/openAPIV3Schema/properties/spec/properties/size/description","value":"Its size."}`
	patch := []byte("[" + strings.Replace(op, "N", "0", 1) + "," + strings.Replace(op, "N", "1", 1) + "]")
	crds := w.definitions.ApiextensionsV1().CustomResourceDefinitions()
	if _, err := crds.Patch(limit(t), "widgets.example.com", types.JSONPatchType, patch, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("new text", func() bool {
		body, _ := w.get(path)
		return strings.Contains(body, "Its size.")
	})

	// It goes, and its objects with it; a new one of the same name finds none.
	w.mustMake("w", "{size: 1}")
	events, err := w.widgets().Watch(limit(t), metav1.ListOptions{FieldSelector: "metadata.name=w"})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	if err := crds.Delete(limit(t), "widgets.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w.eventually("no document", func() bool { _, code := w.get(path); return code == http.StatusNotFound })
	w.eventually("no path", func() bool { _, code := w.get("/apis/example.com/v1/widgets"); return code == http.StatusNotFound })
	w.eventually("no group", func() bool { return !strings.Contains(w.groups(), "example.com") })
	deleted := false
	for e := range events.ResultChan() {
		deleted = deleted || e.Type == watch.Deleted
	}
	if !deleted {
		t.Error("the watch ended without telling that the object went")
	}
	w.eventually("no definition", func() bool {
		_, err := crds.Get(limit(t), "widgets.example.com", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	w.define(widgets)
	if list, err := w.widgets().List(limit(t), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("a new definition finds %v, %v", list, err)
	}
}

func TestBadDefinitions(t *testing.T) {
	w := newWorld(t, servertest.Start(t, nil))
	crds := w.definitions.ApiextensionsV1().CustomResourceDefinitions()
	for change, text := range map[string]string{
		"name: widgets.example.com|name: others.example.com": "must be spec.names.plural+\".\"+spec.group",
		"group: example.com|group: example.k8s.io":           "must be spec.names.plural",
		"type: integer, minimum: 1|type: number, minimum: x": "",
		"self.size < 10|self.weight < 10":                    "undefined field 'weight'",
		"storage: true|storage: false":                       "must have exactly one version marked as storage version",
	} {
		old, now, _ := strings.Cut(change, "|")
		bad := map[string]any{}
		if err := yaml.Unmarshal([]byte(strings.Replace(widgets, old, now, 1)), &bad); err != nil {
			t.Fatal(err)
		}
		body, err := json.Marshal(bad)
		if err != nil {
			t.Fatal(err)
		}
		err = w.definitions.ApiextensionsV1().RESTClient().Post().Resource("customresourcedefinitions").Body(body).Do(limit(t)).Error()
		refused(t, err, text)
	}
	if list, err := crds.List(limit(t), metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("there are %v, %v", list, err)
	}
}

// What was stored is served again by the next server, at once: a path that is not known yet is never "not found".
func TestRestart(t *testing.T) {
	fs := vfs.NewMem()
	first := servertest.New(t, fs, nil)
	<-first.Ready()
	w := newWorld(t, first)
	w.define(widgets)
	uid := w.mustMake("w", "{size: 5}").GetUID()
	first.Stop()
	second := servertest.New(t, fs, nil)
	<-second.Ready()
	w = newWorld(t, second)
	var found *unstructured.Unstructured
	w.eventually("the object is read", func() bool {
		var err error
		if found, err = w.widgets().Get(limit(t), "w", metav1.GetOptions{}); apierrors.IsNotFound(err) {
			t.Fatalf("a stored object is not found: %v", err)
		}
		return err == nil
	})
	if found.GetUID() != uid || field(found, "spec", "size") != int64(5) {
		t.Errorf("found %v", found)
	}
}
