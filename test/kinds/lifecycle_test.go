package kinds

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/api"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/servertest"
)

// lives are objects of kinds that nothing in the cluster works on, each with what may change in them: there, all that a client may do
// is between it and the API.
var lives = []struct {
	kind, object string
	// patch changes the object, and status its status; a kind has no status subresource where that is empty.
	patch, status string
}{
	{"FlowSchema", `
spec:
  matchingPrecedence: 10000
  priorityLevelConfiguration: {name: global-default}
  distinguisherMethod: {type: ByUser}
  rules:
  - subjects: [{kind: User, user: {name: example}}]
    nonResourceRules: [{verbs: ["*"], nonResourceURLs: ["*"]}]
`, `{"spec":{"matchingPrecedence":9999}}`, `{"status":{"conditions":[{"type":"Dangling","status":"False","reason":"Found"}]}}`},
	{"PriorityLevelConfiguration", `
spec:
  type: Limited
  limited: {nominalConcurrencyShares: 2, limitResponse: {type: Reject}}
`, `{"spec":{"limited":{"nominalConcurrencyShares":4}}}`, `{"status":{"conditions":[{"type":"Tried","status":"True"}]}}`},
	{"CSIStorageCapacity", `
storageClassName: e2e.example.com
nodeTopology: {matchLabels: {zone: a}}
`, `{"capacity":"10Gi","maximumVolumeSize":"1Gi"}`, ""},
	{"VolumeAttributesClass", `
driverName: disk.example.com
parameters: {iops: "5000"}
`, `{"metadata":{"labels":{"tier":"high"}}}`, ""},
}

func declaration(t *testing.T, kind string) *resource.Declaration {
	t.Helper()
	for _, d := range api.All() {
		if d.GVK.Kind == kind {
			return d
		}
	}
	t.Fatalf("there is no kind %s", kind)
	return nil
}

// life is one kind under test.
type life struct {
	*testing.T
	d      *resource.Declaration
	client dynamic.ResourceInterface
	object *unstructured.Unstructured
}

const lifeLabel = "life=short"

func TestObjectsLive(t *testing.T) {
	s := servertest.Start(t, nil)
	client, err := dynamic.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	defaultNamespace(t, t.Context(), s.Client(t))
	for _, l := range lives {
		t.Run(l.kind, func(t *testing.T) {
			d := declaration(t, l.kind)
			o := &life{T: t, d: d, client: client.Resource(d.GVK.GroupVersion().WithResource(d.Plural))}
			if d.Namespaced {
				o.client = client.Resource(d.GVK.GroupVersion().WithResource(d.Plural)).Namespace("default")
			}
			o.object = &unstructured.Unstructured{}
			if err := yaml.Unmarshal([]byte(l.object), &o.object.Object); err != nil {
				t.Fatal(err)
			}
			o.object.SetGroupVersionKind(d.GVK)
			o.object.SetGenerateName("e2e-")
			o.object.SetLabels(map[string]string{"life": "short"})

			first := o.create()
			o.create()
			o.create()
			w := o.watch()
			o.patch(first.GetName(), l.patch, w)
			o.update(first.GetName(), w)
			o.apply(first.GetName())
			if l.status != "" {
				o.status(first.GetName(), l.status)
			}
			o.deletion(first.GetName())
		})
	}
}

func (o *life) must(u *unstructured.Unstructured, err error) *unstructured.Unstructured {
	o.Helper()
	if err != nil {
		o.Fatal(err)
	}
	return u
}

func (o *life) create() *unstructured.Unstructured {
	o.Helper()
	u := o.must(o.client.Create(o.Context(), o.object, metav1.CreateOptions{}))
	got := o.must(o.client.Get(o.Context(), u.GetName(), metav1.GetOptions{}))
	generation := int64(0)
	if o.d.Generation {
		generation = 1
	}
	if got.GetUID() != u.GetUID() || got.GetResourceVersion() != u.GetResourceVersion() || got.GetGeneration() != generation {
		o.Fatalf("created as %v, read as %v", u.Object, got.Object)
	}
	_, err := o.client.Create(o.Context(), got, metav1.CreateOptions{})
	if err == nil {
		o.Fatal("created with a resource version")
	}
	again := o.object.DeepCopy()
	again.SetName(u.GetName())
	if _, err := o.client.Create(o.Context(), again, metav1.CreateOptions{}); !apierrors.IsAlreadyExists(err) {
		o.Fatalf("created twice: %v", err)
	}
	return u
}

// list returns how many there are of the test's.
func (o *life) list() (int, string) {
	o.Helper()
	l, err := o.client.List(o.Context(), metav1.ListOptions{LabelSelector: lifeLabel})
	if err != nil {
		o.Fatal(err)
	}
	return len(l.Items), l.GetResourceVersion()
}

func (o *life) watch() watch.Interface {
	o.Helper()
	n, version := o.list()
	if n != 3 {
		o.Fatalf("%d are listed of 3", n)
	}
	w, err := o.client.Watch(o.Context(), metav1.ListOptions{ResourceVersion: version, LabelSelector: lifeLabel})
	if err != nil {
		o.Fatal(err)
	}
	o.Cleanup(w.Stop)
	return w
}

// seen waits for the next event, which is of that type and about want.
func (o *life) seen(w watch.Interface, kind watch.EventType, want *unstructured.Unstructured) {
	o.Helper()
	select {
	case e, ok := <-w.ResultChan():
		got, _ := e.Object.(*unstructured.Unstructured)
		if !ok || e.Type != kind || got == nil || got.GetResourceVersion() != want.GetResourceVersion() {
			o.Fatalf("the watch gives %s %v, not %s of version %s", e.Type, e.Object, kind, want.GetResourceVersion())
		}
	case <-time.After(time.Minute):
		o.Fatal("no event in a minute")
	}
}

func (o *life) patch(name, patch string, w watch.Interface) {
	o.Helper()
	before := o.must(o.client.Get(o.Context(), name, metav1.GetOptions{}))
	after := o.must(o.client.Patch(o.Context(), name, types.MergePatchType, []byte(patch), metav1.PatchOptions{}))
	var changes map[string]any
	if err := json.Unmarshal([]byte(patch), &changes); err != nil {
		o.Fatal(err)
	}
	holds(o.T, "", changes, after.Object)
	if o.d.Generation && after.GetGeneration() != before.GetGeneration()+1 {
		o.Errorf("generation went from %d to %d with the spec", before.GetGeneration(), after.GetGeneration())
	}
	o.seen(w, watch.Modified, after)
}

// holds says whether all that is in want is in got.
func holds(t *testing.T, path string, want, got map[string]any) {
	t.Helper()
	for key, value := range want {
		if inner, ok := value.(map[string]any); ok {
			part, _ := got[key].(map[string]any)
			holds(t, path+"."+key, inner, part)
		} else if w, g := fmt.Sprint(value), fmt.Sprint(got[key]); w != g {
			t.Errorf("%s.%s is %s, not %s", path, key, g, w)
		}
	}
}

func (o *life) update(name string, w watch.Interface) {
	o.Helper()
	u := o.must(o.client.Get(o.Context(), name, metav1.GetOptions{}))
	u.SetAnnotations(map[string]string{"updated": "true"})
	after := o.must(o.client.Update(o.Context(), u, metav1.UpdateOptions{}))
	if after.GetAnnotations()["updated"] != "true" || after.GetGeneration() != u.GetGeneration() {
		o.Errorf("updated to %v", after.Object)
	}
	o.seen(w, watch.Modified, after)
	if _, err := o.client.Update(o.Context(), u, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		o.Errorf("updated what it no longer is: %v", err)
	}
	u.SetResourceVersion("")
	_, err := o.client.Update(o.Context(), u, metav1.UpdateOptions{DryRun: []string{metav1.DryRunAll}})
	if allowed := !o.d.VersionedUpdate; allowed != (err == nil) {
		o.Errorf("updated whatever it is: %v", err)
	}
}

// apply has a second manager own a label.
func (o *life) apply(name string) {
	o.Helper()
	u := &unstructured.Unstructured{}
	u.SetGroupVersionKind(o.d.GVK)
	u.SetName(name)
	u.SetLabels(map[string]string{"applied": "yes"})
	after := o.must(o.client.Apply(o.Context(), name, u, metav1.ApplyOptions{FieldManager: "applier"}))
	if after.GetLabels()["applied"] != "yes" || !slices.ContainsFunc(after.GetManagedFields(), func(m metav1.ManagedFieldsEntry) bool {
		return m.Manager == "applier" && m.Operation == metav1.ManagedFieldsOperationApply
	}) {
		o.Errorf("applied to %v", after.Object)
	}
}

// status writes the status: through its subresource that changes nothing else, and nothing else changes it.
func (o *life) status(name, status string) {
	o.Helper()
	before := o.must(o.client.Get(o.Context(), name, metav1.GetOptions{}, "status"))
	ignored := o.must(o.client.Patch(o.Context(), name, types.MergePatchType, []byte(status), metav1.PatchOptions{}))
	if ignored.GetResourceVersion() != before.GetResourceVersion() {
		o.Errorf("the object was changed by a write of its status to %v", ignored.Object)
	}
	after := o.must(o.client.Patch(o.Context(), name, types.MergePatchType, []byte(status), metav1.PatchOptions{}, "status"))
	conditions, _, err := unstructured.NestedSlice(after.Object, "status", "conditions")
	if err != nil || len(conditions) != 1 {
		o.Errorf("the status is %v: %v", after.Object["status"], err)
	}
	after.SetLabels(map[string]string{"life": "long"})
	if err := unstructured.SetNestedField(after.Object, "another", "spec", "type"); err != nil {
		o.Fatal(err)
	}
	conditions = append(conditions, map[string]any{"type": "Second", "status": "False"})
	if err := unstructured.SetNestedSlice(after.Object, conditions, "status", "conditions"); err != nil {
		o.Fatal(err)
	}
	after = o.must(o.client.UpdateStatus(o.Context(), after, metav1.UpdateOptions{}))
	conditions, _, _ = unstructured.NestedSlice(after.Object, "status", "conditions")
	if len(conditions) != 2 || after.GetLabels()["life"] != "short" || after.GetGeneration() != before.GetGeneration() {
		o.Errorf("with another status it is %v", after.Object)
	}
}

func (o *life) deletion(name string) {
	o.Helper()
	if err := o.client.Delete(o.Context(), name, metav1.DeleteOptions{}); err != nil {
		o.Fatal(err)
	}
	if _, err := o.client.Get(o.Context(), name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		o.Errorf("deleted and read: %v", err)
	}
	if n, _ := o.list(); n != 2 {
		o.Errorf("%d are left of 2", n)
	}
	if err := o.client.DeleteCollection(o.Context(), metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: lifeLabel}); err != nil {
		o.Fatal(err)
	}
	if n, _ := o.list(); n != 0 {
		o.Errorf("%d are left of none", n)
	}
}

// A list of schemas is shown in the order in which requests are compared with them.
func TestFlowSchemasAreShownByPrecedence(t *testing.T) {
	ctx, c := start(t)
	for name, precedence := range map[string]int{"a": 300, "b": 100, "d": 200, "c": 200} {
		body := fmt.Sprintf(`{"metadata":{"name":%q},"spec":{"matchingPrecedence":%d,"priorityLevelConfiguration":{"name":"x"}}}`, name, precedence)
		if err := c.FlowcontrolV1().RESTClient().Post().Resource("flowschemas").Body([]byte(body)).Do(ctx).Error(); err != nil {
			t.Fatal(err)
		}
	}
	body, err := c.FlowcontrolV1().RESTClient().Get().Resource("flowschemas").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx).Raw()
	if err != nil {
		t.Fatal(err)
	}
	var table metav1.Table
	if err := json.Unmarshal(body, &table); err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, r := range table.Rows {
		names = append(names, fmt.Sprint(r.Cells[0]))
	}
	if got := strings.Join(names, " "); got != "b c d a" {
		t.Errorf("shown as %s", got)
	}
}
