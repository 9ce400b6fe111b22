package aggregation_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/peapod/peapod/apiserver/servertest"
)

// groups returns the names of all groups, as clients of old ask for them, and as others do.
func groups(t *testing.T, s *servertest.Server) (plain, aggregated []string) {
	t.Helper()
	_, body := do(t, s.HTTP(t), http.MethodGet, s.URL+"/apis", "", asJSON())
	var list metav1.APIGroupList
	if err := json.Unmarshal([]byte(body), &list); err != nil {
		t.Fatalf("%v: %s", err, body)
	}
	for _, g := range list.Groups {
		plain = append(plain, g.Name)
	}
	found, err := s.Client(t).Discovery().ServerGroups()
	if err != nil {
		t.Fatal(err)
	}
	for _, g := range found.Groups {
		if g.Name != "" {
			aggregated = append(aggregated, g.Name)
		}
	}
	return plain, aggregated
}

// TestDiscovery: the kinds of a server are among all others while it is there, known to be missing while it is not, and gone with its
// APIService.
func TestDiscovery(t *testing.T) {
	s, front := newServer(t)
	before, same := groups(t, s)
	if !slices.Equal(before, same) || before[0] != "apiregistration.k8s.io" {
		t.Errorf("groups are %v, or %v", before, same)
	}
	b := newWardle(t, front)
	c := serve(t, s, b)
	want := slices.Insert(slices.Clone(before), slices.Index(before, "metrics.k8s.io"), group)
	plain, aggregated := groups(t, s)
	if !slices.Equal(plain, want) || !slices.Equal(aggregated, want) {
		t.Errorf("groups are %v, or %v, want %v", plain, aggregated, want)
	}
	_, body := do(t, s.HTTP(t), http.MethodGet, s.URL+"/apis/"+group, "", asJSON())
	var g metav1.APIGroup
	if err := json.Unmarshal([]byte(body), &g); err != nil || g.PreferredVersion.GroupVersion != group+"/"+version || len(g.Versions) != 1 {
		t.Errorf("the group is %s", body)
	}
	found := s.Client(t).Discovery()
	gvr := schema.GroupVersionResource{Group: group, Version: version, Resource: "flunders"}
	if !has(t, found, gvr) {
		t.Errorf("%v is not among the kinds", gvr)
	}
	// Higher than all others.
	b.fail(true)
	patch(t, c, `{"spec":{"groupPriorityMinimum":20000}}`)
	await(t, c, object, reason("FailedDiscoveryCheck"))
	plain, aggregated = groups(t, s)
	want = slices.Insert(slices.Clone(before), 1, group)
	if !slices.Equal(plain, want) || !slices.Equal(aggregated, want) {
		t.Errorf("groups are %v, or %v, want %v", plain, aggregated, want)
	}
	_, err := found.ServerPreferredResources()
	if failed, ok := discovery.GroupDiscoveryFailedErrorGroups(err); !ok || len(failed) != 1 || failed[gvr.GroupVersion()] == nil {
		t.Errorf("error is %v", err)
	}
	b.fail(false)
	await(t, c, object, reason("Passed"))
	if !has(t, found, gvr) {
		t.Errorf("%v is not among the kinds", gvr)
	}
	if err := c.Delete(t.Context(), object, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	// Nothing tells when the last of it has gone.
	for end := time.Now().Add(patience); ; {
		plain, aggregated = groups(t, s)
		if slices.Equal(plain, before) && slices.Equal(aggregated, before) {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("groups are %v, or %v, want %v", plain, aggregated, before)
		}
	}
	if resp, _ := do(t, s.HTTP(t), http.MethodGet, s.URL+flunders, "", asJSON()); resp.StatusCode != http.StatusNotFound {
		t.Errorf("answer is %d", resp.StatusCode)
	}
}

func has(t *testing.T, d discovery.DiscoveryInterface, gvr schema.GroupVersionResource) bool {
	t.Helper()
	lists, err := d.ServerPreferredResources()
	if err != nil {
		t.Error(err)
	}
	all, err := discovery.GroupVersionResources(lists)
	if err != nil {
		t.Error(err)
	}
	_, ok := all[gvr]
	return ok
}

// TestOpenAPI: the server's own description is served with the others', also by a server that has no version 3 of it.
func TestOpenAPI(t *testing.T) {
	s, front := newServer(t)
	serve(t, s, newWardle(t, front))
	client := s.HTTP(t)
	_, body := do(t, client, http.MethodGet, s.URL+"/openapi/v2", "", asJSON())
	for _, part := range []string{"Flunder is what wardles have.", root + "/namespaces/{namespace}/flunders", "/api/v1/namespaces"} {
		if !strings.Contains(body, part) {
			t.Errorf("version 2 has no %s", part)
		}
	}
	if strings.Contains(body, "other.example.com") {
		t.Error("version 2 has paths that the server was not given")
	}
	_, body = do(t, client, http.MethodGet, s.URL+"/openapi/v3", "", asJSON())
	var index struct {
		Paths map[string]struct{ ServerRelativeURL string }
	}
	if err := json.Unmarshal([]byte(body), &index); err != nil {
		t.Fatal(err)
	}
	at := index.Paths[strings.TrimPrefix(root, "/")].ServerRelativeURL
	if at == "" || index.Paths["api/v1"].ServerRelativeURL == "" {
		t.Fatalf("index of version 3 is %s", body)
	}
	resp, body := do(t, client, http.MethodGet, s.URL+at, "", asJSON())
	if resp.StatusCode != http.StatusOK || !strings.Contains(body, "Flunder is what wardles have.") || !strings.Contains(body, `"#/components/schemas/wardle.Flunder"`) {
		t.Errorf("version 3 is %d, %s", resp.StatusCode, body)
	}
}

// TestOtherVersionsStay: what this server has itself stays its own, though an APIService of its group is behind a Service.
func TestOtherVersionsStay(t *testing.T) {
	s, front := newServer(t)
	b := newWardle(t, front)
	c := serve(t, s, b)
	other := b.apiService()
	other.Name, other.Spec.Group, other.Spec.Version = "v9.apps", "apps", "v9"
	if _, err := c.Create(t.Context(), other, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	await(t, c, other.Name, func(s *apiregistrationv1.APIService) bool { return s != nil && len(s.Status.Conditions) > 0 })
	if _, err := s.Client(t).AppsV1().Deployments(namespace).List(t.Context(), metav1.ListOptions{}); err != nil {
		t.Error(err)
	}
	_, body := do(t, s.HTTP(t), http.MethodGet, s.URL+"/apis/apps", "", asJSON())
	var g metav1.APIGroup
	if err := json.Unmarshal([]byte(body), &g); err != nil || len(g.Versions) != 2 || g.PreferredVersion.Version != "v9" {
		t.Errorf("the group is %s", body)
	}
}
