package aggregation_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

const lentName = "v1beta1.metrics.k8s.io"

// TestLent: a group version that the server yields is another server's as soon as the APIService leads there, over a restart, too, and
// this server's again when that is deleted. An APIService that leads nowhere else stays deleted.
func TestLent(t *testing.T) {
	s, front := newServer(t)
	other := servertest.Behind(t, "meter", front)
	// The other server has a node, which it cannot measure. This one has none: it answers with an empty list.
	if _, err := other.Client(t).CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Client(t).CoreV1().Services("default").Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "meter"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	c := apiServices(t, s)
	asked := func(want int) {
		t.Helper()
		resp, body := do(t, s.HTTP(t), http.MethodGet, s.URL+"/apis/metrics.k8s.io/v1beta1/nodes", "", asJSON())
		if resp.StatusCode != want {
			t.Errorf("status is %d, want %d: %s", resp.StatusCode, want, body)
		}
	}
	local := reason("Local")
	first := await(t, c, lentName, local)
	asked(http.StatusOK)

	if err := c.Delete(t.Context(), lentName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	spec := first.Spec
	spec.Service = &apiregistrationv1.ServiceReference{Namespace: "default", Name: "meter", Port: new(other.Port(t))}
	spec.CABundle = other.CA.CurrentCABundleContent()
	if _, err := c.Create(t.Context(), &apiregistrationv1.APIService{ObjectMeta: metav1.ObjectMeta{Name: lentName}, Spec: spec}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, lentName, reason("Passed"))
	asked(http.StatusServiceUnavailable)
	if err := c.Delete(t.Context(), lentName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	back := await(t, c, lentName, local)
	if back.Spec.Service != nil || back.Labels[managed] != "onstart" {
		t.Errorf("it came back as %+v", back)
	}

	// As `kubectl apply` of a manifest does it: the object stays, with the label of this server.
	change, err := json.Marshal(map[string]any{"spec": map[string]any{"service": spec.Service, "caBundle": spec.CABundle}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Patch(t.Context(), lentName, types.MergePatchType, change, metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, lentName, reason("Passed"))
	s.Stop()
	s = servertest.New(t, s.FS, func(c *apiserver.Config) { c.FrontProxy = front.ClientCert(t, "front-proxy-client") })
	<-s.Ready()
	c = apiServices(t, s)
	if kept := await(t, c, lentName, reason("Passed")); kept.UID != back.UID || kept.Spec.Service == nil {
		t.Errorf("after a restart it is %+v", kept)
	}
	if err := c.Delete(t.Context(), lentName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, lentName, local)
	asked(http.StatusOK)
}

// TestNotLentAgain: an APIService that an administrator deletes while it is this server's stays deleted until the next start.
func TestNotLentAgain(t *testing.T) {
	s := servertest.Start(t, nil)
	c := apiServices(t, s)
	if err := c.Delete(t.Context(), lentName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// Others that come later have been looked at when this one would have been.
	for i := range 3 {
		name := fmt.Sprintf("v%d.gone.example.com", i+1)
		if _, err := c.Create(t.Context(), &apiregistrationv1.APIService{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{managed: "true"}},
			Spec:       apiregistrationv1.APIServiceSpec{Group: "gone.example.com", Version: fmt.Sprintf("v%d", i+1), GroupPriorityMinimum: 1, VersionPriority: 1},
		}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		await(t, c, name, func(s *apiregistrationv1.APIService) bool { return s == nil })
	}
	await(t, c, lentName, func(s *apiregistrationv1.APIService) bool { return s == nil })
}
