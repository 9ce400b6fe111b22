package server

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/util/cert"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/critest"
	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/pod"
)

// rig is a server on a real TLS listener, before a runtime in memory that has
// one Pod with the containers c (running), w (waiting) and old (restarted once).
type rig struct {
	url     string
	client  *http.Client
	runtime *critest.Runtime
	ids     map[string]string // "name" or "name/previous" -> CRI ID
	asked   []authorizer.Attributes
	streams []string // URLs that the stream handler got
	header  http.Header
	logs    string // the node's log directory
	server  *Server
	metrics *metrics.Set
}

// runtimeWithStreams answers stream requests with URLs, as a runtime does.
type runtimeWithStreams struct{ *critest.Runtime }

func (runtimeWithStreams) Exec(_ context.Context, r *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	return &runtimeapi.ExecResponse{Url: "/cri/exec/token?cmd=" + url.QueryEscape(strings.Join(r.Cmd, " ")) + fmt.Sprintf("&tty=%v&stdin=%v&stdout=%v&stderr=%v", r.Tty, r.Stdin, r.Stdout, r.Stderr)}, nil
}

func (runtimeWithStreams) Attach(context.Context, *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	return &runtimeapi.AttachResponse{Url: "/cri/attach/token"}, nil
}

func (runtimeWithStreams) PortForward(_ context.Context, r *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	return &runtimeapi.PortForwardResponse{Url: fmt.Sprintf("/cri/portforward/token?ports=%v", r.Port)}, nil
}

// lookup is the one Pod.
type lookup struct {
	pod *v1.Pod
	ids map[string]string
}

func (l lookup) Pod(namespace, name string) (*v1.Pod, bool) {
	return l.pod, namespace == l.pod.Namespace && name == l.pod.Name
}
func (l lookup) PodByUID(uid types.UID) (*v1.Pod, bool)              { return l.pod, uid == l.pod.UID }
func (l lookup) Pods() []*v1.Pod                                     { return []*v1.Pod{l.pod} }
func (l lookup) SandboxID(context.Context, types.UID) (string, bool) { return "sandbox1", true }
func (l lookup) ContainerID(_ context.Context, _ types.UID, name string, previous bool) (string, error) {
	key := name
	if previous {
		key += "/previous"
	}
	if id, ok := l.ids[key]; ok {
		return id, nil
	}
	return "", &pod.NoContainerError{Pod: l.pod.Name, Container: name, Previous: previous, Waiting: "ContainerCreating"}
}

// newRig starts a server; allow says what each user may do, as "verb subresource".
func newRig(t *testing.T, allow map[string][]string) *rig {
	t.Helper()
	r := &rig{runtime: critest.New(), ids: map[string]string{}, logs: t.TempDir(), metrics: metrics.New()}
	l := lookup{ids: r.ids, pod: &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", UID: "u1"},
		Spec:       v1.PodSpec{Containers: []v1.Container{{Name: "c"}, {Name: "w"}, {Name: "old"}}},
	}}
	r.containers(t)
	certPEM, keyPEM, err := cert.GenerateSelfSignedCertKey("127.0.0.1", []net.IP{net.IPv4(127, 0, 0, 1)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	serving, err := dynamiccertificates.NewStaticCertKeyContent("serving", certPEM, keyPEM)
	if err != nil {
		t.Fatal(err)
	}
	ca, err := dynamiccertificates.NewStaticCAContent("ca", certPEM)
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := New(Config{
		Listener: listener, ServingCert: serving, ClientCA: ca, NodeName: "n1", Pods: l, Runtime: runtimeWithStreams{r.runtime},
		Authenticator: authenticator.RequestFunc(func(q *http.Request) (*authenticator.Response, bool, error) {
			name, ok := strings.CutPrefix(q.Header.Get("Authorization"), "Bearer ")
			return &authenticator.Response{User: &user.DefaultInfo{Name: name}}, ok, nil
		}),
		Authorizer: authorizer.AuthorizerFunc(func(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
			r.asked = append(r.asked, a)
			for _, may := range allow[a.GetUser().GetName()] {
				if may == "*" || may == a.GetVerb()+" "+a.GetSubresource() {
					return authorizer.DecisionAllow, "", nil
				}
			}
			return authorizer.DecisionNoOpinion, "", nil
		}),
		Streams: http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			r.streams, r.header = append(r.streams, q.URL.RequestURI()), q.Header
			fmt.Fprint(w, "streamed")
		}),
		LogDirectory: r.logs, Metrics: r.metrics,
		Settings: func() any { return map[string]string{"kind": "KubeletConfiguration"} },
	})
	r.server = s
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	r.url = "https://" + listener.Addr().String()
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	t.Cleanup(transport.CloseIdleConnections)
	r.client = &http.Client{Transport: transport, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return r
}

// containers makes what runs, with logs.
func (r *rig) containers(t *testing.T) {
	dir := t.TempDir()
	podLabels := map[string]string{criconfig.LabelPodName: "p", criconfig.LabelPodNamespace: "ns", criconfig.LabelPodUID: "u1"}
	sandbox := &runtimeapi.PodSandboxConfig{Metadata: &runtimeapi.PodSandboxMetadata{Name: "p", Namespace: "ns", Uid: "u1"}, LogDirectory: dir, Labels: podLabels}
	id, err := r.runtime.RunPodSandbox(t.Context(), sandbox, "")
	if err != nil {
		t.Fatal(err)
	}
	for key, attempt := range map[string]uint32{"c": 0, "old": 1, "old/previous": 0} {
		name, _, _ := strings.Cut(key, "/")
		labels := maps.Clone(podLabels)
		labels[criconfig.LabelContainerName] = name
		file := fmt.Sprintf("%s-%d.log", name, attempt)
		cid, err := r.runtime.CreateContainer(t.Context(), id, &runtimeapi.ContainerConfig{
			Metadata: &runtimeapi.ContainerMetadata{Name: name, Attempt: attempt}, Image: &runtimeapi.ImageSpec{Image: "img"}, LogPath: file, Labels: labels,
		}, sandbox)
		if err != nil {
			t.Fatal(err)
		}
		if err := r.runtime.StartContainer(t.Context(), cid); err != nil {
			t.Fatal(err)
		}
		if key != "c" {
			if err := r.runtime.StopContainer(t.Context(), cid, 1); err != nil {
				t.Fatal(err)
			}
		}
		r.ids[key] = cid
		lines := "2026-01-02T03:04:05.000000000Z stdout F " + key + " one\n2026-01-02T03:04:06.000000000Z stderr F " + key + " two\n2026-01-02T03:04:07.000000000Z stdout F " + key + " three\n"
		if err := os.WriteFile(filepath.Join(dir, file), []byte(lines), 0o600); err != nil {
			t.Fatal(err)
		}
	}
}

// do sends a request; an empty user sends no credentials.
func (r *rig) do(t *testing.T, method, path, who string) (int, string) {
	t.Helper()
	q, err := http.NewRequestWithContext(t.Context(), method, r.url+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	if who != "" {
		q.Header.Set("Authorization", "Bearer "+who)
	}
	resp, err := r.client.Do(q)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func TestAccess(t *testing.T) {
	r := newRig(t, map[string][]string{
		"admin": {"*"}, "reader": {"get proxy"}, "scraper": {"get metrics", "get stats"}, "lister": {"get pods"}, "health": {"get healthz"},
	})
	for _, c := range []struct {
		who, method, path string
		code              int
	}{
		{"", "GET", "/healthz", 401},
		{"", "GET", "/nothing", 401},
		{"", "POST", "/exec/ns/p/c?command=id&output=1", 401},
		{"nobody", "GET", "/healthz", 403},
		{"nobody", "GET", "/nothing", 403},
		{"nobody", "GET", "/containerLogs/ns/p/c", 403},
		{"health", "GET", "/healthz", 200},
		{"health", "GET", "/healthz/ping", 200},
		{"health", "GET", "/pods", 403},
		{"reader", "GET", "/healthz", 200},
		{"reader", "GET", "/pods", 200},
		{"reader", "GET", "/configz", 200},
		{"reader", "GET", "/containerLogs/ns/p/c", 200},
		{"reader", "GET", "/metrics", 403},
		// WebSockets open with GET: reading must not suffice to run a command.
		{"reader", "GET", "/exec/ns/p/c?command=id&output=1", 403},
		{"reader", "GET", "/attach/ns/p/c?output=1", 403},
		{"reader", "GET", "/portForward/ns/p", 403},
		{"scraper", "GET", "/metrics", 200},
		{"scraper", "GET", "/pods", 403},
		{"lister", "GET", "/pods", 200},
		{"lister", "GET", "/configz", 403},
		{"admin", "GET", "/exec/ns/p/c?command=id&output=1", 200},
		{"admin", "DELETE", "/pods", 405},
		{"admin", "GET", "/nothing", 404},
	} {
		if code, body := r.do(t, c.method, c.path, c.who); code != c.code {
			t.Errorf("%q %s %s: %d %s, want %d", c.who, c.method, c.path, code, body, c.code)
		}
	}
	if len(r.streams) != 1 {
		t.Errorf("streams reached: %v", r.streams)
	}
	if r.header.Get("Authorization") != "" {
		t.Error("the caller's credentials reach the runtime")
	}
}

// Requests are counted, those that are refused, too; what probes answered is shown to who may read metrics.
func TestRequestsAreCounted(t *testing.T) {
	r := newRig(t, map[string][]string{"lister": {"get pods"}, "scraper": {"get metrics"}})
	for who, code := range map[string]int{"": 401, "nobody": 403, "lister": 200} {
		if got, body := r.do(t, "GET", "/pods", who); got != code {
			t.Errorf("%q: %d %s, want %d", who, got, body, code)
		}
	}
	w := httptest.NewRecorder()
	r.metrics.Kubelet().ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if want := `kubelet_http_requests_total{long_running="false",method="GET",path="pods",server_type="readwrite"} 3` + "\n"; !strings.Contains(w.Body.String(), want) {
		t.Errorf("no %s in\n%s", want, w.Body)
	}
	r.metrics.Probed(metrics.Probe{Kind: "Liveness", Container: "c"}, "failed", 0)
	if code, body := r.do(t, "GET", "/metrics/probes", "scraper"); code != 200 || !strings.Contains(body, `prober_probe_total{container="c"`) {
		t.Errorf("metrics of probes: %d %s", code, body)
	}
}

func TestAttributes(t *testing.T) {
	for _, c := range []struct{ method, path, want string }{
		{"GET", "/exec/ns/p/c", "create proxy"},
		{"POST", "/exec/ns/p/c", "create proxy"},
		{"GET", "/attach/ns/p/c", "create proxy"},
		{"GET", "/portForward/ns/p", "create proxy"},
		{"GET", "/run/ns/p/c", "create proxy"},
		{"GET", "/containerLogs/ns/p/c", "get proxy"},
		{"GET", "/metrics", "get metrics"},
		{"GET", "/metrics/cadvisor", "get metrics"},
		{"GET", "/metricsx", "get proxy"},
		{"GET", "/stats/summary", "get stats"},
		{"GET", "/logs/syslog", "get log"},
		{"HEAD", "/pods", "get pods,get proxy"},
		{"GET", "/runningpods/", "get pods,get proxy"},
		{"GET", "/healthz/ping", "get healthz,get proxy"},
		{"GET", "/configz", "get configz,get proxy"},
		{"PUT", "/x", "update proxy"},
		{"PATCH", "/x", "patch proxy"},
		{"DELETE", "/x", "delete proxy"},
		{"BREW", "/x", " proxy"},
	} {
		var got []string
		for _, a := range attributes(httptest.NewRequest(c.method, c.path, nil), &user.DefaultInfo{Name: "u"}, "n1") {
			got = append(got, a.GetVerb()+" "+a.GetSubresource())
			if a.GetResource() != "nodes" || a.GetName() != "n1" || !a.IsResourceRequest() || a.GetAPIVersion() != "v1" {
				t.Errorf("%s %s: %+v", c.method, c.path, a)
			}
		}
		if s := strings.Join(got, ","); s != c.want {
			t.Errorf("%s %s: %q, want %q", c.method, c.path, s, c.want)
		}
	}
}

// TestPathTricks: whoever may read metrics gets nothing else by paths that read
// two ways.
func TestPathTricks(t *testing.T) {
	r := newRig(t, map[string][]string{"scraper": {"get metrics", "create metrics"}})
	for _, path := range []string{
		"/metrics/../exec/ns/p/c?command=id&output=1", "/metrics/..%2fexec/ns/p/c?command=id&output=1", "/metrics%2f..%2fexec/ns/p/c?command=id&output=1",
		"//exec/ns/p/c?command=id&output=1", "/metrics//../pods", "/metrics/./../pods", "/metrics/%2e%2e/pods", "/%65xec/ns/p/c?command=id&output=1",
		"/cri/exec/token", "/metrics/../cri/exec/token", "/exec/ns/p/c%2f..?command=id&output=1",
	} {
		for _, method := range []string{"GET", "POST"} {
			if code, body := r.do(t, method, path, "scraper"); code != 400 && code != 403 {
				t.Errorf("%s %s: %d %s", method, path, code, body)
			}
		}
	}
	if len(r.streams) > 0 {
		t.Errorf("streams reached: %v", r.streams)
	}
}

func TestStreams(t *testing.T) {
	r := newRig(t, map[string][]string{"admin": {"*"}})
	for _, c := range []struct {
		path string
		code int
		want string // the runtime's URL, or a part of the body
	}{
		{"/exec/ns/p/c?command=ls&command=-l&output=1&error=1&input=1", 200, "/cri/exec/token?cmd=ls+-l&tty=false&stdin=true&stdout=true&stderr=true"},
		{"/exec/ns/p/c?command=sh&output=1&error=1&tty=1", 200, "/cri/exec/token?cmd=sh&tty=true&stdin=false&stdout=true&stderr=false"},
		{"/exec/ns/p/c?command=sh", 400, "at least 1 of stdin, stdout, stderr"},
		{"/exec/ns/p/c?output=1", 400, "command"},
		{"/exec/ns/p/none?command=sh&output=1", 404, "container not found (\"none\")"},
		{"/exec/ns/p/old?command=sh&output=1", 404, "container not found (\"old\")"}, // it has ended
		{"/attach/ns/p/old?output=1", 404, "container not found (\"old\")"},
		{"/exec/ns/p/w?command=sh&output=1", 404, "container not found (\"w\")"}, // it has not begun
		{"/attach/ns/p/w?output=1", 404, "container not found (\"w\")"},
		{"/exec/ns/q/c?command=sh&output=1", 404, "not found"},
		{"/attach/ns/p/c?output=1", 200, "/cri/attach/token"},
		{"/portForward/ns/p?port=80&port=443", 200, "/cri/portforward/token?ports=[80 443]"},
		{"/portForward/ns/p?port=0", 400, "between 1 and 65535"},
		{"/portForward/ns/p?port=65536", 400, "between 1 and 65535"},
		{"/portForward/ns/q", 404, "not found"},
		{"/cri/exec/token", 404, ""},
	} {
		r.streams = nil
		code, body := r.do(t, "POST", c.path, "admin")
		if code != c.code {
			t.Errorf("%s: %d %s, want %d", c.path, code, body, c.code)
		}
		switch {
		case c.code == 200 && (len(r.streams) != 1 || decoded(r.streams[0]) != decoded(c.want)):
			t.Errorf("%s: streams %v, want %s", c.path, r.streams, c.want)
		case c.code != 200 && (len(r.streams) > 0 || !strings.Contains(body, c.want)):
			t.Errorf("%s: streams %v, body %s", c.path, r.streams, body)
		}
	}
}

func decoded(s string) string {
	if d, err := url.QueryUnescape(s); err == nil {
		return d
	}
	return s
}

func TestPodsAndSettings(t *testing.T) {
	r := newRig(t, map[string][]string{"admin": {"*"}})
	if _, body := r.do(t, "GET", "/pods", "admin"); !strings.Contains(body, `"kind":"PodList"`) || !strings.Contains(body, `"uid":"u1"`) {
		t.Errorf("pods: %s", body)
	}
	if _, body := r.do(t, "GET", "/configz", "admin"); body != `{"kubeletconfig":{"kind":"KubeletConfiguration"}}` {
		t.Errorf("configz: %s", body)
	}
	if _, body := r.do(t, "GET", "/healthz", "admin"); body != "ok" {
		t.Errorf("healthz: %s", body)
	}
}

// TestRunningPods lists what the runtime has, not what has ended, whatever the kubelet knows.
func TestRunningPods(t *testing.T) {
	r := newRig(t, map[string][]string{"lister": {"get pods"}})
	const want = `{"kind":"PodList","apiVersion":"v1","metadata":{},"items":[{"metadata":{"name":"p","namespace":"ns","uid":"u1"},` +
		`"spec":{"containers":[{"name":"c","image":"img","resources":{}}]},"status":{}}]}`
	if _, body := r.do(t, "GET", "/runningpods/", "lister"); strings.TrimSpace(body) != want {
		t.Errorf("got  %s\nwant %s", body, want)
	}
}

// TestNodeLogs serves files of the log directory, and nothing that a link there points to.
func TestNodeLogs(t *testing.T) {
	r := newRig(t, map[string][]string{"logs": {"get log"}, "reader": {"get pods", "get proxy"}})
	secret := filepath.Join(t.TempDir(), "secret")
	for path, text := range map[string]string{secret: "secret", filepath.Join(r.logs, "syslog"): "line\n"} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Symlink(secret, filepath.Join(r.logs, "out")), os.Symlink("syslog", filepath.Join(r.logs, "in")),
		os.Symlink("/", filepath.Join(r.logs, "root")), unix.Mkfifo(filepath.Join(r.logs, "pipe"), 0o600)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]int{
		"/logs/syslog": 200, "/logs/in": 200, "/logs/out": 500, "/logs/root" + secret: 500, "/logs/pipe": 403, "/logs/none": 404, "/logs/..%2f..%2fetc/passwd": 400,
	} {
		code, body := r.do(t, "GET", path, "logs")
		if code != want || strings.Contains(body, "secret") || code == 200 && body != "line\n" {
			t.Errorf("%s: %d %q, want %d", path, code, body, want)
		}
	}
	if code, body := r.do(t, "GET", "/logs/", "logs"); code != 200 || !strings.Contains(body, `href="syslog"`) {
		t.Errorf("the directory: %d %s", code, body)
	}
	if code, _ := r.do(t, "GET", "/logs/syslog", "reader"); code != 403 {
		t.Errorf("without nodes/log: %d", code)
	}
}
