package probe

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	"google.golang.org/grpc/health/grpc_health_v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/pod"
)

func target0(t *testing.T, rawURL string) (*target, intstr.IntOrString) {
	t.Helper()
	u, err := url.Parse(rawURL)
	if err != nil {
		t.Fatal(err)
	}
	port := intstr.Parse(u.Port())
	return &target{
		pod: &v1.Pod{}, podIP: u.Hostname(),
		container: &v1.Container{Name: "c", Ports: []v1.ContainerPort{{Name: "web", ContainerPort: int32(port.IntValue())}}},
	}, port
}

func TestHTTP(t *testing.T) {
	var mu sync.Mutex
	var seen *http.Request
	foreign := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("a probe followed a redirect to another host") }))
	defer foreign.Close()
	elsewhere := strings.Replace(foreign.URL, "127.0.0.1", "localhost", 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		seen = r
		mu.Unlock()
		switch r.URL.Path {
		case "/bad":
			w.WriteHeader(http.StatusServiceUnavailable)
		case "/away":
			http.Redirect(w, r, elsewhere, http.StatusFound)
		case "/near":
			http.Redirect(w, r, "/ok", http.StatusFound)
		case "/same":
			w.WriteHeader(http.StatusNotModified)
		}
	}))
	defer server.Close()
	tg, port := target0(t, server.URL)
	for path, want := range map[string]verdict{
		"/ok?q=1": {ok: true}, "/near": {ok: true}, "/bad": {text: "HTTP probe failed with statuscode: 503"},
		"/away": {ok: true, warning: true, text: "Probe terminated redirects, Response body: <a href=\"" + elsewhere + "\">Found</a>.\n\n"},
		"/same": {ok: true, warning: true, text: "Probe terminated redirects, Response body: "},
	} {
		v, err := httpCheck(t.Context(), tg, &v1.HTTPGetAction{Path: path, Port: port})
		if err != nil || v != want {
			t.Errorf("%s: %+v, %v", path, v, err)
		}
	}
	if _, err := httpCheck(t.Context(), tg, &v1.HTTPGetAction{Path: "/ok", Port: intstr.FromString("web"), HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: "me.example"}, {Name: "X-A", Value: "b"}}}); err != nil {
		t.Fatal(err)
	}
	if seen.Host != "me.example" || seen.Header.Get("X-A") != "b" || seen.UserAgent() != userAgent || seen.Header.Get("Accept") != "*/*" {
		t.Errorf("request %+v", seen)
	}
	if _, err := httpCheck(t.Context(), tg, &v1.HTTPGetAction{Port: intstr.FromString("none")}); err == nil {
		t.Error("a port that is none was found")
	}
	server.Close()
	if v, err := httpCheck(t.Context(), tg, &v1.HTTPGetAction{Path: "/", Port: port}); err != nil || v.ok || !strings.Contains(v.text, "connection refused") {
		t.Errorf("closed: %+v, %v", v, err)
	}
}

func TestHTTPS(t *testing.T) {
	asked := ""
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { asked = r.TLS.ServerName }))
	defer server.Close()
	tg, port := target0(t, server.URL)
	if v, err := httpCheck(t.Context(), tg, &v1.HTTPGetAction{Scheme: v1.URISchemeHTTPS, Path: "/", Port: port}); err != nil || !v.ok {
		t.Errorf("%+v, %v", v, err)
	}
	// The server is told the name that the Host header has; an address is none.
	for host, want := range map[string]string{"me.example:8443": "me.example", "[fd00::1]:8443": "", "": ""} {
		h := &v1.HTTPGetAction{Scheme: v1.URISchemeHTTPS, Path: "/", Port: port, HTTPHeaders: []v1.HTTPHeader{{Name: "Host", Value: host}}}
		if v, err := httpCheck(t.Context(), tg, h); err != nil || !v.ok || asked != want {
			t.Errorf("with Host %q: %+v, %v, for %q, want %q", host, v, err, asked, want)
		}
	}
}

func TestTCPAndGRPC(t *testing.T) {
	for _, at := range []string{"127.0.0.1:0", "[::1]:0"} {
		t.Run(at, func(t *testing.T) { tcpAndGRPC(t, at) })
	}
}

func tcpAndGRPC(t *testing.T, at string) {
	l, err := net.Listen("tcp", at)
	if err != nil {
		t.Fatal(err)
	}
	server, h := grpc.NewServer(), health.NewServer()
	grpc_health_v1.RegisterHealthServer(server, h)
	h.SetServingStatus("sick", grpc_health_v1.HealthCheckResponse_NOT_SERVING)
	go server.Serve(l)
	defer server.Stop()
	tg, port := target0(t, "http://"+l.Addr().String())
	if v, err := tcpCheck(t.Context(), tg, &v1.TCPSocketAction{Port: port}); err != nil || !v.ok {
		t.Errorf("tcp: %+v, %v", v, err)
	}
	sick := "sick"
	for service, want := range map[*string]verdict{
		nil: {ok: true, text: "service healthy"}, &sick: {text: `service unhealthy (responded with "NOT_SERVING")`},
	} {
		v, err := grpcCheck(t.Context(), tg, &v1.GRPCAction{Port: int32(port.IntValue()), Service: service}, time.Second)
		if err != nil || v != want {
			t.Errorf("grpc: %+v, %v; want %+v", v, err, want)
		}
	}
	server.Stop()
	if v, err := tcpCheck(t.Context(), tg, &v1.TCPSocketAction{Port: port}); err != nil || v.ok {
		t.Errorf("closed tcp: %+v, %v", v, err)
	}
}

func TestThresholds(t *testing.T) {
	l := &loop{kind: readiness, probe: &v1.Probe{SuccessThreshold: 2, FailureThreshold: 3}}
	var got []string
	for _, ok := range []bool{true, false, true, true, false, false, true, false, false, false, false, true, true} {
		l.count(ok)
		got = append(got, l.result.String()[:1])
	}
	if want := "UUUSSSSSSFFFS"; strings.Join(got, "") != want {
		t.Errorf("results %v, want %s", strings.Join(got, ""), want)
	}
}

// TestGaps: only readiness that was never had, and startup while failures do not count, are asked for before their period.
func TestGaps(t *testing.T) {
	start := time.Unix(1000, 0)
	for _, c := range []struct {
		kind         kind
		succeeded    bool
		initialDelay int32
		at, want     int // seconds
	}{
		{readiness, false, 0, 0, 1},
		{readiness, false, 0, 1, 1},
		{readiness, false, 0, 4, 4},
		{readiness, false, 0, 8, 8},
		{readiness, false, 0, 16, 10},
		{readiness, false, 30, 30, 1},
		{readiness, false, 30, 34, 4},
		{readiness, true, 0, 0, 10},
		{liveness, false, 0, 0, 10},
		{startup, false, 0, 0, 1},
		{startup, false, 0, 4, 4},
		{startup, false, 0, 8, 2},
		{startup, false, 0, 10, 10},
		{startup, false, 0, 13, 10},
		{startup, false, 30, 30, 10},
	} {
		l := &loop{kind: c.kind, startedAt: start, probe: &v1.Probe{PeriodSeconds: 10, InitialDelaySeconds: c.initialDelay, SuccessThreshold: 1, FailureThreshold: 3}}
		l.count(c.succeeded)
		l.count(false)
		if got := l.gap(start.Add(time.Duration(c.at) * time.Second)); got != time.Duration(c.want)*time.Second {
			t.Errorf("%+v: the gap is %v", c, got)
		}
	}
}

// TestBegins: a container has a period before it is asked what can only end it.
func TestBegins(t *testing.T) {
	for _, c := range []struct {
		kind               kind
		initialDelay, want int32 // seconds
	}{
		{startup, 0, 0}, {readiness, 0, 0}, {liveness, 0, 10}, {liveness, 4, 10}, {liveness, 15, 15}, {readiness, 15, 15},
	} {
		l := &loop{kind: c.kind, startedAt: time.Unix(1000, 0), probe: &v1.Probe{PeriodSeconds: 10, InitialDelaySeconds: c.initialDelay}}
		if got := l.begins().Unix() - 1000; got != int64(c.want) {
			t.Errorf("%+v: it begins after %d s", c, got)
		}
	}
}

// TestEarlyFailures: until a period is over, a startup probe may find out that a container has started, but not that it has not.
func TestEarlyFailures(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	tg, port := target0(t, server.URL)
	now := clocktesting.NewFakeClock(time.Unix(1000, 0))
	var events []string
	pr := New(Config{Checker: &Checker{}, Clock: now, Record: func(_ *v1.Pod, _, _, _, message string) { events = append(events, message) }})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	woken := 0
	pr.wake = func(types.UID) { woken++ }
	l := &loop{kind: startup, startedAt: now.Now(), target: *tg, probe: &v1.Probe{
		ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: port}}, PeriodSeconds: 10, FailureThreshold: 1, SuccessThreshold: 1}}
	for range 3 {
		if pr.once(ctx, l) || l.get() != pod.Unknown || len(events) != 0 || woken != 0 {
			t.Fatalf("an early failure counts: %v, events %q", l.get(), events)
		}
		now.Step(3 * time.Second)
	}
	now.Step(time.Second)
	if !pr.once(ctx, l) || l.get() != pod.Failed || len(events) != 1 || woken != 1 {
		t.Errorf("a failure after a period does not count: %v, events %q", l.get(), events)
	}
}

// TestProbeWarning: a redirect to another host is a success, which an event tells of.
func TestProbeWarning(t *testing.T) {
	server := httptest.NewServer(http.RedirectHandler("http://other.invalid/", http.StatusFound))
	defer server.Close()
	tg, port := target0(t, server.URL)
	var events []string
	pr := New(Config{Checker: &Checker{}, Record: func(_ *v1.Pod, _, kind, reason, message string) {
		events = append(events, kind+" "+reason+" "+message)
	}})
	pr.wake = func(types.UID) {}
	l := &loop{kind: liveness, target: *tg, probe: &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: "/", Port: port}}, FailureThreshold: 1}}
	over := pr.once(t.Context(), l)
	want := "Warning ProbeWarning Liveness probe warning: Probe terminated redirects, Response body: <a href=\"http://other.invalid/\">Found</a>.\n\n"
	if over || l.get() != pod.Success || len(events) != 1 || events[0] != want {
		t.Errorf("result %v, events %q", l.get(), events)
	}
}

// TestStartupGates: liveness is asked only once the startup probe succeeded,
// and then at once.
func TestStartupGates(t *testing.T) {
	var mu sync.Mutex
	var asked []string
	up := false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, r.URL.Path)
		if r.URL.Path == "/startup" && !up {
			w.WriteHeader(http.StatusInternalServerError)
			up = true
		}
	}))
	defer server.Close()
	tg, port := target0(t, server.URL)
	get := func(path string, period int32) *v1.Probe {
		return &v1.Probe{ProbeHandler: v1.ProbeHandler{HTTPGet: &v1.HTTPGetAction{Path: path, Port: port}}, PeriodSeconds: period, FailureThreshold: 3, SuccessThreshold: 1}
	}
	c := &v1.Container{Name: "c", StartupProbe: get("/startup", 3600), LivenessProbe: get("/live", 3600), ReadinessProbe: get("/ready", 3600)}
	p := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}}
	var events []string
	set := metrics.New()
	counted := func() string {
		w := httptest.NewRecorder()
		set.Probes().ServeHTTP(w, httptest.NewRequest("GET", "/metrics/probes", nil))
		return w.Body.String()
	}
	pr := New(Config{Checker: &Checker{}, Metrics: set, Record: func(_ *v1.Pod, _, kind, reason, message string) {
		mu.Lock()
		defer mu.Unlock()
		events = append(events, kind+" "+reason+" "+message)
	}})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	woken := make(chan struct{}, 100)
	done := make(chan struct{})
	go func() { defer close(done); pr.Run(ctx, func(types.UID) { woken <- struct{}{} }) }()
	pr.Sync(p, tg.podIP, []pod.Instance{{Container: c, ID: "i", StartedAt: time.Now()}}, false)
	for {
		r := pr.Results("u")["i"]
		if r.Startup == pod.Success && r.Readiness == pod.Success {
			break
		}
		select {
		case <-woken:
		case <-ctx.Done():
			t.Fatalf("results %+v, asked %v", r, asked)
		}
	}
	mu.Lock()
	if len(asked) < 3 || asked[0] != "/startup" || asked[1] != "/startup" {
		t.Errorf("asked %v", asked)
	}
	if len(events) != 0 {
		t.Errorf("events %q", events)
	}
	mu.Unlock()
	for _, want := range []string{`probe_type="Startup",result="failed"} 1`, `probe_type="Startup",result="successful"} 1`, `probe_type="Readiness",result="successful"} 1`} {
		if line := `prober_probe_total{container="c",namespace="",pod="p",pod_uid="u",` + want; !strings.Contains(counted(), line) {
			t.Errorf("not counted: %s in\n%s", line, counted())
		}
	}
	pr.Forget("u")
	if len(pr.Results("u")) != 0 {
		t.Error("results are kept")
	}
	if left := counted(); strings.Contains(left, `pod="p"`) {
		t.Errorf("counted of a Pod that is no more:\n%s", left)
	}
	cancel()
	<-done
}

func TestSleepHook(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	c := &Checker{}
	if err := c.Run(ctx, &v1.Pod{}, "", &v1.Container{}, "", &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 3600}}); err == nil {
		t.Error("a sleep outlived its context")
	}
	if err := c.Run(t.Context(), &v1.Pod{}, "", &v1.Container{}, "", &v1.LifecycleHandler{Sleep: &v1.SleepAction{}}); err != nil {
		t.Error(err)
	}
}

// TestNobodyStartsAtTheEnd: when it is waited for the probes that run, no other one joins them.
func TestNobodyStartsAtTheEnd(t *testing.T) {
	p := New(Config{})
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p.Run(ctx, func(types.UID) {})
	c := &v1.Container{Name: "c", LivenessProbe: &v1.Probe{ProbeHandler: v1.ProbeHandler{TCPSocket: &v1.TCPSocketAction{Port: intstr.FromInt32(1)}}, PeriodSeconds: 1}}
	p.Sync(&v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: "u"}}, "127.0.0.1", []pod.Instance{{Container: c, ID: "id"}}, false)
	if l := p.pods["u"][key{"id", liveness}]; l == nil || l.stop != nil {
		t.Errorf("the probe of a container that comes too late runs: %+v", l)
	}
}
