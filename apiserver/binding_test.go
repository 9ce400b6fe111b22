package apiserver_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"

	"github.com/peapod/peapod/apiserver/servertest"
)

// A namespace's bindings do what the Pods' subresource does: with a right of their own, and after the same checks.
func TestBindingsOfANamespace(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	pods := c.CoreV1().Pods("n")
	made := must(pods.Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	bind := func(name, node string, o metav1.CreateOptions) error {
		return c.CoreV1().RESTClient().Post().Namespace("n").Resource("bindings").VersionedParams(&o, scheme.ParameterCodec).
			Body(&corev1.Binding{ObjectMeta: metav1.ObjectMeta{Name: name}, Target: corev1.ObjectReference{Kind: "Node", Name: node}}).
			Do(ctx).Error()
	}
	if err := bind("none", "a", metav1.CreateOptions{}); !apierrors.IsNotFound(err) || err.Error() != `pods "none" not found` {
		t.Errorf("of a Pod that is not there: %v", err)
	}
	if err := bind("p", "", metav1.CreateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "target.name: Required value") {
		t.Errorf("to no node: %v", err)
	}
	if err := bind("p", "a", metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	if got := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t); got.ResourceVersion != made.ResourceVersion {
		t.Errorf("a dry run bound: %+v", got.Spec)
	}
	if err := bind("p", "a", metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if got := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t); got.Spec.NodeName != "a" || got.UID != made.UID {
		t.Errorf("bound: %+v", got.Spec)
	}
	want := `Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "a"`
	if err := bind("p", "b", metav1.CreateOptions{}); !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("twice: %v", err)
	}

	eve := must(kubernetes.NewForConfig(s.Config("eve")))(t)
	err := eve.CoreV1().RESTClient().Post().Namespace("n").Resource("bindings").Body(&corev1.Binding{}).Do(ctx).Error()
	want = `bindings is forbidden: User "eve" cannot create resource "bindings" in API group "" in the namespace "n"`
	if !apierrors.IsForbidden(err) || !strings.HasPrefix(err.Error(), want) {
		t.Errorf("without the right: %v", err)
	}

	list := must(c.Discovery().ServerResourcesForGroupVersion("v1"))(t)
	i := slices.IndexFunc(list.APIResources, func(r metav1.APIResource) bool { return r.Name == "bindings" })
	if i < 0 {
		t.Fatal("discovery does not know bindings")
	}
	r := list.APIResources[i]
	if r.Kind != "Binding" || r.SingularName != "binding" || !r.Namespaced || !slices.Equal(r.Verbs, metav1.Verbs{"create"}) {
		t.Errorf("discovery says %+v", r)
	}
	for _, method := range []string{"GET", "DELETE"} {
		if status, _, body := do(t, s, method, "/api/v1/namespaces/n/bindings", ""); status != http.StatusMethodNotAllowed {
			t.Errorf("%s: %d %s", method, status, body)
		}
	}
}
