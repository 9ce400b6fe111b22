package apiserver_test

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

var ctx = context.Background()

// do sends a request and returns the response's status, headers and body.
func do(t *testing.T, s *servertest.Server, method, path, body string, header ...string) (int, http.Header, string) {
	t.Helper()
	req, err := http.NewRequestWithContext(ctx, method, s.URL+path, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := s.HTTP(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, resp.Header, string(data)
}

// must is for what has to succeed for a test to go on.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

func namespace(t *testing.T, c kubernetes.Interface, name string) {
	t.Helper()
	must(c.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}))(t)
}

func configMap(name string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}
}

func TestEndpoints(t *testing.T) {
	s := servertest.Start(t, nil)
	for _, path := range []string{
		"/readyz", "/readyz?verbose", "/readyz/ping", "/livez", "/healthz", "/version", "/api", "/apis", "/api/v1", "/metrics",
		"/apis/coordination.k8s.io", "/apis/coordination.k8s.io/v1", "/",
	} {
		if status, _, body := do(t, s, "GET", path, ""); status != http.StatusOK {
			t.Errorf("GET %s: %d %s", path, status, body)
		}
	}
	var version struct{ Major, Minor, GitVersion string }
	_, _, body := do(t, s, "GET", "/version", "")
	if err := json.Unmarshal([]byte(body), &version); err != nil || version.Major != "1" || version.Minor != "37" || !strings.HasPrefix(version.GitVersion, "v1.37.") {
		t.Errorf("version %s: %v", body, err)
	}
	if status, _, body := do(t, s, "GET", "/nowhere", ""); status != http.StatusNotFound {
		t.Errorf("GET /nowhere: %d %s", status, body)
	}
	anonymous, err := kubernetes.NewForConfig(s.Config("mallory"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := anonymous.CoreV1().Namespaces().List(ctx, metav1.ListOptions{}); err == nil || err.Error() != "Unauthorized" {
		t.Errorf("without a valid token: %v", err)
	}
}

func TestGatesHoldReadiness(t *testing.T) {
	open := make(chan struct{})
	s := servertest.New(t, nil, func(c *apiserver.Config) {
		c.Gates = []apiserver.Gate{{Name: "bootstrap", Open: open}}
	})
	// In-process calls work before the server is ready: what opens the gate may need them.
	c := must(kubernetes.NewForConfig(s.Transport.Config(&user.DefaultInfo{Name: "x", Groups: []string{user.SystemPrivilegedGroup}})))(t)
	namespace(t, c, "early")
	for _, path := range []string{"/readyz", "/livez", "/healthz"} {
		if status, _, body := do(t, s, "GET", path+"?verbose", ""); status != http.StatusInternalServerError || !strings.Contains(body, "[-]bootstrap failed") {
			t.Errorf("%s before: %d %s", path, status, body)
		}
		if status, _, body := do(t, s, "GET", path+"/bootstrap", ""); status != http.StatusInternalServerError {
			t.Errorf("%s/bootstrap before: %d %s", path, status, body)
		}
	}
	select {
	case <-s.Ready():
		t.Error("ready before the gate opened")
	default:
	}
	close(open)
	<-s.Ready()
	for _, path := range []string{"/readyz", "/livez/bootstrap", "/healthz"} {
		if status, _, body := do(t, s, "GET", path, ""); status != http.StatusOK {
			t.Errorf("%s after: %d %s", path, status, body)
		}
	}
}

func TestObjectsOutliveTheServer(t *testing.T) {
	s := servertest.Start(t, nil)
	namespace(t, s.Client(t), "kept")
	s.Stop()
	again := servertest.New(t, s.FS, nil)
	<-again.Ready()
	must(again.Client(t).CoreV1().Namespaces().Get(ctx, "kept", metav1.GetOptions{}))(t)
}

// When the server stops, watches end, in order, and do not hold it up.
func TestStopEndsWatches(t *testing.T) {
	s := servertest.Start(t, nil)
	inProcess := must(kubernetes.NewForConfig(s.Transport.Config(&user.DefaultInfo{Name: "x"})))(t)
	for _, c := range []kubernetes.Interface{s.Client(t), inProcess} {
		w := must(c.CoreV1().Namespaces().Watch(ctx, metav1.ListOptions{}))(t)
		defer func() {
			for range w.ResultChan() {
			}
		}()
	}
	begin := time.Now()
	s.Stop()
	t.Logf("stopped in %v", time.Since(begin))
}

func TestInProcessClient(t *testing.T) {
	s := servertest.Start(t, nil)
	c := must(kubernetes.NewForConfig(s.Transport.Config(&user.DefaultInfo{Name: "inner"})))(t)
	namespace(t, c, "n")
	w := must(c.CoreV1().ConfigMaps("n").Watch(ctx, metav1.ListOptions{}))(t)
	must(c.CoreV1().ConfigMaps("n").Create(ctx, configMap("x"), metav1.CreateOptions{}))(t)
	if e := <-w.ResultChan(); e.Object.(*corev1.ConfigMap).Name != "x" {
		t.Errorf("got %v", e)
	}
	w.Stop()
	who := must(kubernetes.NewForConfig(s.Transport.Config(&user.DefaultInfo{Name: "eve", Groups: []string{servertest.Deny}})))(t)
	_, err := who.CoreV1().ConfigMaps("n").List(ctx, metav1.ListOptions{})
	want := `configmaps is forbidden: User "eve" cannot list resource "configmaps" in API group "" in the namespace "n"`
	if err == nil || err.Error() != want {
		t.Errorf("got %v, want %s", err, want)
	}
}
