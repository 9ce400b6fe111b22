// Package kinds tests, against a server, what kinds do that takes more than one object or request.
package kinds

import (
	"context"
	"net/http"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/peapod/peapod/api"
	"github.com/peapod/peapod/apiserver/servertest"
)

func start(t *testing.T) (context.Context, kubernetes.Interface) {
	t.Helper()
	return t.Context(), servertest.Start(t, nil).Client(t)
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func TestNamespaceStaysUntilItIsFinalized(t *testing.T) {
	ctx, c := start(t)
	namespaces := c.CoreV1().Namespaces()
	get := must[*corev1.Namespace](t)

	ns := get(namespaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "team-"}}, metav1.CreateOptions{}))
	if ns.Labels[corev1.LabelMetadataName] != ns.Name || ns.Status.Phase != corev1.NamespaceActive {
		t.Fatalf("created as %+v", ns)
	}
	get(namespaces.Patch(ctx, ns.Name, types.MergePatchType, []byte(`{"metadata":{"finalizers":["example.com/mine"]}}`), metav1.PatchOptions{}))
	if err := namespaces.Delete(ctx, ns.Name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	ns = get(namespaces.Get(ctx, ns.Name, metav1.GetOptions{}))
	if ns.Status.Phase != corev1.NamespaceTerminating || ns.DeletionTimestamp.IsZero() {
		t.Fatalf("deleted, it is %+v", ns)
	}
	ns.Spec.Finalizers = nil
	ns = get(namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}))
	if len(ns.Spec.Finalizers) != 0 {
		t.Fatalf("finalized, it is %+v", ns.Spec)
	}
	ns = get(namespaces.Get(ctx, ns.Name, metav1.GetOptions{})) // Held by the other finalizer.
	ns.Finalizers = nil
	get(namespaces.Update(ctx, ns, metav1.UpdateOptions{}))
	if _, err := namespaces.Get(ctx, ns.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("with no finalizer left: %v", err)
	}
}

func TestNamespaceLeavesWithItsLastFinalizer(t *testing.T) {
	ctx, c := start(t)
	namespaces := c.CoreV1().Namespaces()
	get := must[*corev1.Namespace](t)
	get(namespaces.Create(ctx, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "team", Finalizers: []string{"example.com/mine"}},
	}, metav1.CreateOptions{}))
	for range 2 { // Asking again does not make it so.
		if err := namespaces.Delete(ctx, "team", metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	get(namespaces.Patch(ctx, "team", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))
	ns := get(namespaces.Get(ctx, "team", metav1.GetOptions{})) // Held by its content.
	ns.Spec.Finalizers = nil
	get(namespaces.Finalize(ctx, ns, metav1.UpdateOptions{}))
	if _, err := namespaces.Get(ctx, "team", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("with no finalizer left: %v", err)
	}
}

func service(name string, change func(*corev1.ServiceSpec)) *corev1.Service {
	s := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"}}
	s.Spec.Ports = []corev1.ServicePort{{Port: 80}}
	if change != nil {
		change(&s.Spec)
	}
	return s
}

func defaultNamespace(t *testing.T, ctx context.Context, c kubernetes.Interface) {
	t.Helper()
	_, err := c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{})
	if err != nil && !apierrors.IsAlreadyExists(err) {
		t.Fatal(err)
	}
}

func TestServicesShareThePools(t *testing.T) {
	ctx, c := start(t)
	defaultNamespace(t, ctx, c)
	services := c.CoreV1().Services("default")
	get := must[*corev1.Service](t)

	nodePort := func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }
	a := get(services.Create(ctx, service("a", nodePort), metav1.CreateOptions{}))
	if a.Spec.ClusterIP == "" || a.Spec.Ports[0].NodePort == 0 {
		t.Fatalf("created as %+v", a.Spec)
	}
	wanted := func(s *corev1.ServiceSpec) {
		s.Type = corev1.ServiceTypeNodePort
		s.ClusterIP, s.Ports[0].NodePort = a.Spec.ClusterIP, a.Spec.Ports[0].NodePort
	}
	_, err := services.Create(ctx, service("b", wanted), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.clusterIPs") {
		t.Fatalf("an address that is taken: %v", err)
	}
	if err := c.CoreV1().Services("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	dry := metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}
	get(services.Create(ctx, service("b", wanted), dry))
	get(services.Create(ctx, service("b", wanted), dry))
	b := get(services.Create(ctx, service("b", wanted), metav1.CreateOptions{}))
	if b.Spec.ClusterIP != a.Spec.ClusterIP {
		t.Errorf("given %s, asked for %s", b.Spec.ClusterIP, a.Spec.ClusterIP)
	}
	// An update that is refused gives nothing away.
	b.Spec.Type, b.Spec.ExternalName = corev1.ServiceTypeExternalName, "not a name"
	if _, err := services.Update(ctx, b, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Fatalf("an external name that is none: %v", err)
	}
	if _, err := services.Create(ctx, service("c", wanted), metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Fatalf("an address that is still taken: %v", err)
	}
	b.Spec.ExternalName = "example.com"
	b = get(services.Update(ctx, b, metav1.UpdateOptions{}))
	if b.Spec.ClusterIP != "" || b.Spec.Ports[0].NodePort != 0 {
		t.Errorf("as an external name it has %+v", b.Spec)
	}
	get(services.Create(ctx, service("c", wanted), metav1.CreateOptions{}))
}

func TestServicesKeepTheirPoolsOverARestart(t *testing.T) {
	ctx, fs := t.Context(), vfs.NewMem()
	s := servertest.New(t, fs, nil)
	<-s.Ready()
	c, get := s.Client(t), must[*corev1.Service](t)
	defaultNamespace(t, ctx, c)
	nodePort := func(s *corev1.ServiceSpec) { s.Type = corev1.ServiceTypeNodePort }
	a := get(c.CoreV1().Services("default").Create(ctx, service("a", nodePort), metav1.CreateOptions{}))
	s.Stop()

	s = servertest.New(t, fs, nil)
	<-s.Ready()
	c = s.Client(t)
	for _, wanted := range []func(*corev1.ServiceSpec){
		func(s *corev1.ServiceSpec) { s.ClusterIP = a.Spec.ClusterIP },
		func(s *corev1.ServiceSpec) { nodePort(s); s.Ports[0].NodePort = a.Spec.Ports[0].NodePort },
	} {
		_, err := c.CoreV1().Services("default").Create(ctx, service("b", wanted), metav1.CreateOptions{})
		if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "already allocated") {
			t.Errorf("what the first service has: %v", err)
		}
	}
}

func TestEndpointsGoWithTheirService(t *testing.T) {
	ctx, c := start(t)
	defaultNamespace(t, ctx, c)
	must[*corev1.Service](t)(c.CoreV1().Services("default").Create(ctx, service("a", nil), metav1.CreateOptions{}))
	must[*corev1.Endpoints](t)(c.CoreV1().Endpoints("default").Create(ctx, //nolint:staticcheck // Deprecated and served.
		&corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: "a"}}, metav1.CreateOptions{}))
	if err := c.CoreV1().Services("default").Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := c.CoreV1().Endpoints("default").Get(ctx, "a", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Fatalf("the service's endpoints: %v", err)
	}
}

func TestEventsAreOneInTwoVersions(t *testing.T) {
	ctx, c := start(t)
	defaultNamespace(t, ctx, c)
	must[*corev1.Event](t)(c.CoreV1().Events("default").Create(ctx, &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Name: "old.1"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", Name: "old", Namespace: "default"},
		Message:        "said so", Source: corev1.EventSource{Component: "kubelet"},
	}, metav1.CreateOptions{}))
	_, err := c.EventsV1().Events("default").Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "new.1"}, Regarding: corev1.ObjectReference{Name: "new", Namespace: "default"},
	}, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "eventTime: Required value") {
		t.Fatalf("an incomplete event in the new group: %v", err)
	}
	must[*eventsv1.Event](t)(c.EventsV1().Events("default").Create(ctx, &eventsv1.Event{
		ObjectMeta: metav1.ObjectMeta{Name: "new.1"}, Regarding: corev1.ObjectReference{Name: "new", Namespace: "default"},
		EventTime: metav1.NowMicro(), ReportingController: "example.com/x", ReportingInstance: "x-1", Action: "Do",
		Reason: "Because", Type: corev1.EventTypeNormal,
	}, metav1.CreateOptions{}))

	events := must[*eventsv1.EventList](t)(c.EventsV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=old"}))
	if len(events.Items) != 1 || events.Items[0].Note != "said so" || events.Items[0].DeprecatedSource.Component != "kubelet" {
		t.Errorf("through events.k8s.io: %+v", events.Items)
	}
	core := must[*corev1.EventList](t)(c.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=new,source=example.com/x"}))
	if len(core.Items) != 1 || core.Items[0].ReportingInstance != "x-1" {
		t.Errorf("through core: %+v", core.Items)
	}
	_, err = c.CoreV1().Events("default").List(ctx, metav1.ListOptions{FieldSelector: "regarding.name=old"})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), "field label not supported: regarding.name") {
		t.Errorf("a label of the other version: %v", err)
	}
}

func TestNodeRegistersWithItsStatus(t *testing.T) {
	ctx, c := start(t)
	nodes, get := c.CoreV1().Nodes(), must[*corev1.Node](t)
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	n.Status.NodeInfo.KubeletVersion = "v1"
	n = get(nodes.Create(ctx, n, metav1.CreateOptions{}))
	if n.Status.NodeInfo.KubeletVersion != "v1" {
		t.Errorf("the status was dropped")
	}
	n.Spec.Unschedulable, n.Status.NodeInfo.KubeletVersion = true, "v2"
	n = get(nodes.Update(ctx, n, metav1.UpdateOptions{}))
	if n.Status.NodeInfo.KubeletVersion != "v1" || !n.Spec.Unschedulable {
		t.Errorf("updated, it is %+v", n)
	}
	list := must[*corev1.NodeList](t)(nodes.List(ctx, metav1.ListOptions{FieldSelector: "spec.unschedulable=true"}))
	if len(list.Items) != 1 {
		t.Errorf("%d nodes selected", len(list.Items))
	}
	n.Status.NodeInfo.KubeletVersion, n.Spec.Unschedulable = "v2", false
	n = get(nodes.UpdateStatus(ctx, n, metav1.UpdateOptions{}))
	if n.Status.NodeInfo.KubeletVersion != "v2" || !n.Spec.Unschedulable {
		t.Errorf("with its status updated, it is %+v", n)
	}
}

// Every stored kind answers a list as a table, which is what `kubectl get` asks for.
func TestEveryKindIsPrinted(t *testing.T) {
	ctx, c := start(t)
	for _, d := range api.All() {
		if d.Virtual != nil {
			continue
		}
		path := "/apis/" + d.GVK.Group + "/" + d.GVK.Version + "/" + d.Plural
		if d.GVK.Group == "" {
			path = "/api/v1/" + d.Plural
		}
		result := c.CoreV1().RESTClient().Get().AbsPath(path).
			SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").Do(ctx)
		body, err := result.Raw()
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		obj, _, err := scheme.Codecs.UniversalDeserializer().Decode(body, nil, &metav1.Table{})
		if err != nil {
			t.Errorf("%s: %v", path, err)
			continue
		}
		table := obj.(*metav1.Table)
		if len(table.ColumnDefinitions) < 2 {
			t.Errorf("%s has columns %v", path, table.ColumnDefinitions)
		}
		var status int
		result.StatusCode(&status)
		if status != http.StatusOK {
			t.Errorf("%s: %d", path, status)
		}
	}
}
