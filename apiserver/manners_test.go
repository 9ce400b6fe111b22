package apiserver_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	corev1ac "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver/servertest"
)

func pod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "i"}}},
	}
}

// TestWrites is one server and one namespace for what is to be seen of single objects.
func TestWrites(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	maps := c.CoreV1().ConfigMaps("n")

	t.Run("field validation", func(t *testing.T) {
		const path = "/api/v1/namespaces/n/configmaps?dryRun=All&fieldValidation="
		const body = `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"x"},"dta":{}}`
		status, _, answer := do(t, s, "POST", path+"Strict", body, "Content-Type", "application/json")
		if status != http.StatusBadRequest || !strings.Contains(answer, `strict decoding error: unknown field \"dta\"`) {
			t.Errorf("Strict: %d %s", status, answer)
		}
		status, header, answer := do(t, s, "POST", path+"Warn", body, "Content-Type", "application/json")
		if w := header.Get("Warning"); status != http.StatusCreated || w != `299 - "unknown field \"dta\""` {
			t.Errorf("Warn: %d %s %s", status, w, answer)
		}
		status, header, _ = do(t, s, "POST", path+"Ignore", body, "Content-Type", "application/json")
		if status != http.StatusCreated || header.Get("Warning") != "" {
			t.Errorf("Ignore: %d %v", status, header)
		}
	})
	t.Run("YAML in and out", func(t *testing.T) {
		body := "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: yaml}\ndata: {k: v}\n"
		status, _, answer := do(t, s, "POST", "/api/v1/namespaces/n/configmaps", body, "Content-Type", "application/yaml", "Accept", "application/yaml")
		if status != http.StatusCreated || !strings.Contains(answer, "\n  k: v\n") {
			t.Errorf("%d %s", status, answer)
		}
		status, _, answer = do(t, s, "POST", "/api/v1/namespaces/n/configmaps", "a: [b", "Content-Type", "application/yaml")
		if status != http.StatusBadRequest {
			t.Errorf("broken YAML: %d %s", status, answer)
		}
		if status, _, _ = do(t, s, "POST", "/api/v1/namespaces/n/configmaps", "x", "Content-Type", "application/cbor"); status != http.StatusUnsupportedMediaType {
			t.Errorf("CBOR: %d", status)
		}
	})
	t.Run("dry run", func(t *testing.T) {
		must(maps.Create(ctx, configMap("dry"), metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))(t)
		if _, err := maps.Get(ctx, "dry", metav1.GetOptions{}); !apierrors.IsNotFound(err) || err.Error() != `configmaps "dry" not found` {
			t.Errorf("got %v", err)
		}
	})
	t.Run("names", func(t *testing.T) {
		made := must(maps.Create(ctx, &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "gen-"}}, metav1.CreateOptions{}))(t)
		if !strings.HasPrefix(made.Name, "gen-") || len(made.Name) != len("gen-")+5 {
			t.Errorf("generated %q", made.Name)
		}
		_, err := maps.Create(ctx, configMap(made.Name), metav1.CreateOptions{})
		if !apierrors.IsAlreadyExists(err) || err.Error() != fmt.Sprintf("configmaps %q already exists", made.Name) {
			t.Errorf("twice: %v", err)
		}
		_, err = maps.Create(ctx, configMap("Not_A-Name"), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), `ConfigMap "Not_A-Name" is invalid: metadata.name: Invalid value: "Not_A-Name": a lowercase RFC 1123 subdomain`) {
			t.Errorf("bad name: %v", err)
		}
	})
	t.Run("optimistic lock", func(t *testing.T) {
		made := must(maps.Create(ctx, configMap("lock"), metav1.CreateOptions{}))(t)
		made.Data = map[string]string{"a": "1"}
		must(maps.Update(ctx, made, metav1.UpdateOptions{}))(t)
		made.Data["a"] = "2"
		_, err := maps.Update(ctx, made, metav1.UpdateOptions{})
		want := `Operation cannot be fulfilled on configmaps "lock": the object has been modified; please apply your changes to the latest version and try again`
		if !apierrors.IsConflict(err) || err.Error() != want {
			t.Errorf("got %v", err)
		}
		made.ResourceVersion = ""
		must(maps.Update(ctx, made, metav1.UpdateOptions{}))(t)
	})
	t.Run("patches", func(t *testing.T) {
		must(maps.Create(ctx, configMap("patched"), metav1.CreateOptions{}))(t)
		for typ, body := range map[types.PatchType]string{
			types.JSONPatchType:           `[{"op":"add","path":"/metadata/labels","value":{"json":"1"}}]`,
			types.MergePatchType:          `{"data":{"merge":"1"}}`,
			types.StrategicMergePatchType: `{"data":{"strategic":"1"}}`,
		} {
			must(maps.Patch(ctx, "patched", typ, []byte(body), metav1.PatchOptions{}))(t)
		}
		got := must(maps.Get(ctx, "patched", metav1.GetOptions{}))(t)
		if got.Labels["json"] != "1" || len(got.Data) != 2 {
			t.Errorf("got %v %v", got.Labels, got.Data)
		}
	})
	t.Run("server-side apply", func(t *testing.T) { testApply(t, s) })
	t.Run("deletion", func(t *testing.T) { testDeletion(t, s) })
	t.Run("status", func(t *testing.T) { testStatus(t, s) })
}

func testApply(t *testing.T, s *servertest.Server) {
	maps := s.Client(t).CoreV1().ConfigMaps("n")
	conf := func(v string) *corev1ac.ConfigMapApplyConfiguration {
		return corev1ac.ConfigMap("applied", "n").WithData(map[string]string{"k": v})
	}
	must(maps.Apply(ctx, conf("1"), metav1.ApplyOptions{FieldManager: "one"}))(t)
	_, err := maps.Apply(ctx, conf("2"), metav1.ApplyOptions{FieldManager: "two"})
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `Apply failed with 1 conflict: conflict with "one": .data.k`) {
		t.Errorf("got %v", err)
	}
	got := must(maps.Apply(ctx, conf("2"), metav1.ApplyOptions{FieldManager: "two", Force: true}))(t)
	if got.Data["k"] != "2" || len(got.ManagedFields) != 1 || got.ManagedFields[0].Manager != "two" {
		t.Errorf("after force: %v %v", got.Data, got.ManagedFields)
	}
	// What the main resource resets, its applier does not own; lists are merged by their keys.
	applied := must(s.Client(t).CoreV1().Pods("n").Apply(ctx, corev1ac.Pod("applied", "n").
		WithSpec(corev1ac.PodSpec().WithContainers(corev1ac.Container().WithName("c").WithImage("i"))).
		WithStatus(corev1ac.PodStatus().WithMessage("mine")), metav1.ApplyOptions{FieldManager: "one"}))(t)
	fields := applied.ManagedFields[0].FieldsV1.GetRawString()
	if applied.Status.Message != "" || strings.Contains(fields, "f:status") || !strings.Contains(fields, `k:{\"name\":\"c\"}`) {
		t.Errorf("status %q, fields %s", applied.Status.Message, fields)
	}
}

func testDeletion(t *testing.T, s *servertest.Server) {
	maps := s.Client(t).CoreV1().ConfigMaps("n")
	held := configMap("held")
	held.Finalizers = []string{"example.com/hold"}
	made := must(maps.Create(ctx, held, metav1.CreateOptions{}))(t)

	err := maps.Delete(ctx, "held", metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")})
	if !apierrors.IsConflict(err) {
		t.Errorf("with a wrong UID: %v", err)
	}
	if err := maps.Delete(ctx, "held", metav1.DeleteOptions{PropagationPolicy: ptr.To(metav1.DeletePropagationForeground)}); err != nil {
		t.Fatal(err)
	}
	got := must(maps.Get(ctx, "held", metav1.GetOptions{}))(t)
	if got.UID != made.UID || got.DeletionTimestamp == nil || !slices.Contains(got.Finalizers, metav1.FinalizerDeleteDependents) {
		t.Errorf("held object is %v", got.ObjectMeta)
	}
	got.Finalizers = nil
	must(maps.Update(ctx, got, metav1.UpdateOptions{}))(t)
	if _, err := maps.Get(ctx, "held", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without finalizers: %v", err)
	}

	for i := range 3 {
		m := configMap(fmt.Sprintf("many-%d", i))
		m.Labels = map[string]string{"many": "yes"}
		must(maps.Create(ctx, m, metav1.CreateOptions{}))(t)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "many=yes"}); err != nil {
		t.Fatal(err)
	}
	if left := must(maps.List(ctx, metav1.ListOptions{LabelSelector: "many=yes"}))(t); len(left.Items) != 0 {
		t.Errorf("%d are left", len(left.Items))
	}
}

func testStatus(t *testing.T, s *servertest.Server) {
	pods := s.Client(t).CoreV1().Pods("n")
	fresh := pod("p")
	fresh.Status.Message = "forged"
	made := must(pods.Create(ctx, fresh, metav1.CreateOptions{}))(t)
	if made.Status.Message != "" || made.Generation != 1 || made.Status.Phase != corev1.PodPending {
		t.Errorf("created with status %v, generation %d", made.Status, made.Generation)
	}
	made.Status.Message = "from status"
	made.Spec.Containers[0].Image = "changed"
	updated := must(pods.UpdateStatus(ctx, made, metav1.UpdateOptions{}))(t)
	if updated.Status.Message != "from status" || updated.Spec.Containers[0].Image != "i" {
		t.Errorf("status write: %v %v", updated.Status.Message, updated.Spec.Containers[0].Image)
	}
	updated.Spec.Containers[0].Image = "changed"
	updated.Status.Message = "from main"
	updated = must(pods.Update(ctx, updated, metav1.UpdateOptions{}))(t)
	if updated.Status.Message != "from status" || updated.Spec.Containers[0].Image != "changed" || updated.Generation != 2 {
		t.Errorf("main write: %v %v %d", updated.Status.Message, updated.Spec.Containers[0].Image, updated.Generation)
	}
}

// TestPuts: which kinds a PUT makes, and which it replaces only where the writer has seen what there is.
func TestPuts(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	for _, x := range []struct {
		path, body      string
		makes, versions bool
	}{
		{"/api/v1/namespaces/n/configmaps/x", `{"metadata":{"name":"x"}}`, false, false},
		{"/api/v1/namespaces/n/limitranges/x", `{"metadata":{"name":"x"},"spec":{"limits":[]}}`, true, false},
		{"/apis/node.k8s.io/v1/runtimeclasses/x", `{"metadata":{"name":"x"},"handler":"h"}`, true, true},
		{"/apis/storage.k8s.io/v1/csinodes/x", `{"metadata":{"name":"x"},"spec":{"drivers":[]}}`, false, true},
	} {
		put := func() (int, string) {
			status, _, answer := do(t, s, "PUT", x.path, x.body, "Content-Type", "application/json")
			return status, answer
		}
		status, answer := put()
		if want := map[bool]int{false: http.StatusNotFound, true: http.StatusCreated}[x.makes]; status != want {
			t.Errorf("PUT %s where there is none: %d %s, want %d", x.path, status, answer, want)
		}
		if !x.makes {
			if status, _, answer := do(t, s, "POST", strings.TrimSuffix(x.path, "/x"), x.body, "Content-Type", "application/json"); status != http.StatusCreated {
				t.Fatalf("POST %s: %d %s", x.path, status, answer)
			}
		}
		status, answer = put()
		if want := map[bool]int{false: http.StatusOK, true: http.StatusUnprocessableEntity}[x.versions]; status != want ||
			x.versions && !strings.Contains(answer, "metadata.resourceVersion: Invalid value") {
			t.Errorf("PUT %s without a version: %d %s, want %d", x.path, status, answer, want)
		}
	}
}

func TestNamespaceEndsInTwoSteps(t *testing.T) {
	s := servertest.Start(t, nil)
	all := s.Client(t).CoreV1().Namespaces()
	namespace(t, s.Client(t), "n")
	if err := all.Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	got := must(all.Get(ctx, "n", metav1.GetOptions{}))(t)
	if got.Status.Phase != corev1.NamespaceTerminating || got.DeletionTimestamp == nil {
		t.Fatalf("is %v", got)
	}
	got.Spec.Finalizers = nil
	must(all.Finalize(ctx, got, metav1.UpdateOptions{}))(t)
	if _, err := all.Get(ctx, "n", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		// Upstream needs one more delete where only spec.finalizers held the namespace.
		if err := all.Delete(ctx, "n", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
		if _, err := all.Get(ctx, "n", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("is still there: %v", err)
		}
	}
	for _, r := range must(s.Client(t).Discovery().ServerResourcesForGroupVersion("v1"))(t).APIResources {
		if r.Name == "namespaces" && slices.Contains(r.Verbs, "deletecollection") {
			t.Error("namespaces can be deleted all at once")
		}
	}
}

func TestWatch(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	maps := c.CoreV1().ConfigMaps("n")
	first := must(maps.Create(ctx, configMap("a"), metav1.CreateOptions{}))(t)
	must(maps.Create(ctx, configMap("b"), metav1.CreateOptions{}))(t)
	if err := maps.Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	w := must(maps.Watch(ctx, metav1.ListOptions{ResourceVersion: first.ResourceVersion}))(t)
	for _, want := range []string{"ADDED b", "DELETED a"} {
		e := <-w.ResultChan()
		if got := fmt.Sprint(e.Type, " ", e.Object.(*corev1.ConfigMap).Name); got != want {
			t.Errorf("got %s, want %s", got, want)
		}
	}
	w.Stop()

	// WatchList: what there is, and a bookmark that says so.
	w = must(maps.Watch(ctx, metav1.ListOptions{
		SendInitialEvents: ptr.To(true), AllowWatchBookmarks: true, ResourceVersionMatch: metav1.ResourceVersionMatchNotOlderThan,
	}))(t)
	defer w.Stop()
	if e := <-w.ResultChan(); e.Type != watch.Added || e.Object.(*corev1.ConfigMap).Name != "b" {
		t.Errorf("got %v", e)
	}
	if e := <-w.ResultChan(); e.Type != watch.Bookmark || e.Object.(*corev1.ConfigMap).Annotations[metav1.InitialEventsAnnotationKey] != "true" {
		t.Errorf("got %v", e)
	}
}

func TestPages(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	maps := c.CoreV1().ConfigMaps("n")
	for i := range 5 {
		must(maps.Create(ctx, configMap(fmt.Sprintf("m%d", i)), metav1.CreateOptions{}))(t)
	}
	var names []string
	options := metav1.ListOptions{Limit: 2}
	for {
		page := must(maps.List(ctx, options))(t)
		for _, m := range page.Items {
			names = append(names, m.Name)
		}
		if page.Continue == "" {
			break
		}
		// What is written between two pages is not in the later one.
		must(maps.Create(ctx, configMap(fmt.Sprintf("m9%d", len(names))), metav1.CreateOptions{}))(t)
		options.Continue = page.Continue
	}
	if got := strings.Join(names, " "); got != "m0 m1 m2 m3 m4" {
		t.Errorf("got %s", got)
	}
}

func TestSelectors(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	pods := c.CoreV1().Pods("n")
	placed := pod("placed")
	placed.Spec.NodeName = "node-1"
	placed.Labels = map[string]string{"app": "x"}
	must(pods.Create(ctx, placed, metav1.CreateOptions{}))(t)
	must(pods.Create(ctx, pod("waiting"), metav1.CreateOptions{}))(t)
	for selector, want := range map[string]int{
		"spec.nodeName=node-1": 1, "spec.nodeName=": 1, "spec.nodeName!=": 1, "status.phase=Pending": 2, "metadata.name=waiting": 1,
		"metadata.namespace=n": 2, "metadata.namespace=other": 0,
	} {
		if got := must(pods.List(ctx, metav1.ListOptions{FieldSelector: selector}))(t); len(got.Items) != want {
			t.Errorf("%s: %d Pods, want %d", selector, len(got.Items), want)
		}
	}
	if got := must(pods.List(ctx, metav1.ListOptions{LabelSelector: "app in (x,y)"}))(t); len(got.Items) != 1 {
		t.Errorf("by label: %d", len(got.Items))
	}
	_, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.image=x"})
	if want := `field label not supported: spec.image`; !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), want) {
		t.Errorf("unknown: %v", err)
	}
	_, err = c.CoreV1().ConfigMaps("n").List(ctx, metav1.ListOptions{FieldSelector: "data.x=y"})
	if want := `"data.x" is not a known field selector: only "metadata.name", "metadata.namespace"`; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("unknown: %v", err)
	}
}
