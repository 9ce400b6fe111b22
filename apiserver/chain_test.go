package apiserver_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/peapod/peapod/apiserver/servertest"
)

// Every request passes what k8s.io/apiserver has it pass by default: it gets an audit ID, is not to be cached, what is not found is
// not found rather than still to come, who it says it is for is checked, and the metrics tell how long filters take.
func TestRequestsPassTheChain(t *testing.T) {
	s := servertest.Start(t, nil)
	client := s.HTTP(t)
	get := func(path string, headers map[string]string) (*http.Response, string) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		for k, v := range headers {
			r.Header.Set(k, v)
		}
		response, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		return response, string(body)
	}
	response, _ := get("/api/v1/namespaces", map[string]string{"Audit-ID": "mine"})
	if id, cache := response.Header.Get("Audit-Id"), response.Header.Get("Cache-Control"); id != "mine" || cache != "no-cache, private" {
		t.Errorf("Audit-Id %q, Cache-Control %q", id, cache)
	}
	if response, body := get("/nowhere", nil); response.StatusCode != http.StatusNotFound {
		t.Errorf("/nowhere: %s, %s", response.Status, body)
	}
	if response, body := get("/api/v1/namespaces", map[string]string{"Impersonate-User": "eve", "Impersonate-Group": servertest.Deny}); response.StatusCode != http.StatusForbidden {
		t.Errorf("for eve: %s, %s", response.Status, body)
	}
	if response, body := get("/api/v1/namespaces", map[string]string{"Authorization": "Bearer nobody's"}); response.StatusCode != http.StatusUnauthorized {
		t.Errorf("for nobody: %s, %s", response.Status, body)
	}
	_, metrics := get("/metrics", nil)
	for _, filter := range []string{"authentication", "audit", "constrainedimpersonation", "authorization"} {
		if sample := fmt.Sprintf(`apiserver_request_filter_duration_seconds_count{filter=%q}`, filter); !strings.Contains(metrics, sample) {
			t.Errorf("no metric %s", sample)
		}
	}
}
