package apiserver_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"math/rand"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	kubeletportforward "k8s.io/cri-streaming/pkg/streaming/portforward"
	kubeletcommand "k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/utils/exec"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

// kubelet serves as a kubelet does, by the library that kubelets use. What it runs is "cat", with the exit code that the
// command's second word is.
type kubelet struct{ requests chan string }

func (k *kubelet) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	k.requests <- req.Method + " " + req.URL.RequestURI()
	part := strings.Split(strings.TrimPrefix(req.URL.Path, "/"), "/")
	switch part[0] {
	case "containerLogs":
		if req.FormValue("follow") != "" {
			fmt.Fprintln(w, "first")
			http.NewResponseController(w).Flush()
			<-req.Context().Done()
			return
		}
		fmt.Fprintf(w, "log of %s as %s", part[3], req.TLS.PeerCertificates[0].Subject.CommonName)
	case "exec":
		options, err := kubeletcommand.NewOptions(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		kubeletcommand.ServeExec(w, req, k, part[2], "", part[3], req.Form["command"], options, time.Minute, time.Minute, kubeletcommand.SupportedStreamingProtocols)
	case "portForward":
		options, err := kubeletportforward.NewV4Options(req)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		kubeletportforward.ServePortForward(w, req, k, part[2], "", options, time.Minute, time.Minute, kubeletportforward.SupportedProtocols)
	case "away":
		http.Redirect(w, req, "http://127.0.0.1:1/", http.StatusFound)
	default:
		fmt.Fprint(w, "page "+req.URL.Path)
	}
}

func (k *kubelet) ExecInContainer(_ context.Context, _, _, _ string, cmd []string, in io.Reader, out, _ io.WriteCloser, _ bool,
	_ <-chan kubeletcommand.TerminalSize, _ time.Duration) error {
	if _, err := io.Copy(out, in); err != nil {
		return err
	}
	if cmd[1] != "0" {
		return exec.CodeExitError{Err: fmt.Errorf("exit %s", cmd[1]), Code: 7}
	}
	return nil
}

func (k *kubelet) PortForward(_ context.Context, _, _ string, port int32, stream io.ReadWriteCloser) error {
	defer stream.Close()
	_, err := io.Copy(stream, stream)
	return err
}

// cluster is a server with a node, whose kubelet is k, and a Pod of two containers on it.
func cluster(t *testing.T, change ...func(*apiserver.Config)) (*servertest.Server, *kubelet) {
	t.Helper()
	s := servertest.Start(t, func(c *apiserver.Config) {
		for _, f := range change {
			f(c)
		}
		ca := c.ClientCA.(*servertest.Authority)
		c.Kubelet = &apiserver.KubeletClient{Cert: ca.ClientCert(t, "the-api-server"), CA: ca}
	})
	k := &kubelet{make(chan string, 100)}
	certs, key := s.CA.Serving(t, "127.0.0.1").CurrentCertKeyContent()
	pair, err := tls.X509KeyPair(certs, key)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA.CurrentCABundleContent())
	server := httptest.NewUnstartedServer(k)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	server.StartTLS()
	t.Cleanup(server.Close)

	c := s.Client(t)
	must(c.CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(server.Listener.Addr().(*net.TCPAddr).Port)}},
		},
	}, metav1.CreateOptions{}))(t)
	namespace(t, c, "n")
	p := pod("p")
	p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "i"})
	p.Spec.NodeName = "node-1"
	must(c.CoreV1().Pods("n").Create(ctx, p, metav1.CreateOptions{}))(t)
	return s, k
}

func TestLogs(t *testing.T) {
	s, k := cluster(t)
	pods := s.Client(t).CoreV1().Pods("n")
	read := func(name string, o *corev1.PodLogOptions) (string, error) {
		stream, err := pods.GetLogs(name, o).Stream(ctx)
		if err != nil {
			return "", err
		}
		defer stream.Close()
		data, err := io.ReadAll(stream)
		return string(data), err
	}
	since := metav1.NewTime(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	got, err := read("p", &corev1.PodLogOptions{Container: "d", TailLines: ptr.To[int64](3), Timestamps: true, SinceTime: &since})
	if err != nil || got != "log of d as the-api-server" {
		t.Errorf("got %q, %v", got, err)
	}
	if got := <-k.requests; got != "GET /containerLogs/n/p/d?sinceTime=2026-01-02T03%3A04%3A05Z&tailLines=3&timestamps=true" {
		t.Errorf("the kubelet was asked for %s", got)
	}
	for want, o := range map[string]*corev1.PodLogOptions{
		"a container name must be specified for pod p, choose one of: [c d]":                             {},
		"container x is not valid for pod p":                                                             {Container: "x"},
		`PodLogOptions "p" is invalid: tailLines: Invalid value: -1: must be greater than or equal to 0`: {Container: "c", TailLines: ptr.To[int64](-1)},
	} {
		if _, err := read("p", o); err == nil || err.Error() != want {
			t.Errorf("got %v, want %s", err, want)
		}
	}
	must(pods.Create(ctx, pod("waiting"), metav1.CreateOptions{}))(t)
	if got, err := read("waiting", &corev1.PodLogOptions{}); err != nil || got != "" {
		t.Errorf("of a Pod on no node: %q, %v", got, err)
	}
}

// A log that is followed does not hold up a server that stops, and who follows it is told that this was not its end.
func TestStopEndsLogs(t *testing.T) {
	s, _ := cluster(t, func(c *apiserver.Config) { c.ShutdownGrace = 3 * time.Minute })
	stream := must(s.Client(t).CoreV1().Pods("n").GetLogs("p", &corev1.PodLogOptions{Container: "c", Follow: true}).Stream(ctx))(t)
	defer stream.Close()
	if _, err := io.ReadFull(stream, make([]byte, len("first\n"))); err != nil {
		t.Fatal(err)
	}
	stopped := make(chan struct{})
	go func() { defer close(stopped); s.Stop() }()
	select {
	case <-stopped:
	case <-time.After(time.Minute):
		t.Fatal("the server waits for who follows a log")
	}
	if rest, err := io.ReadAll(stream); err == nil {
		t.Errorf("the log ends with %q, as if that was all", rest)
	}
}

func executors(t *testing.T, config *rest.Config, command string) map[string]remotecommand.Executor {
	t.Helper()
	c := must(kubernetes.NewForConfig(config))(t)
	url := c.CoreV1().RESTClient().Post().Resource("pods").Namespace("n").Name("p").SubResource("exec").VersionedParams(&corev1.PodExecOptions{
		Container: "c", Command: []string{"cat", command}, Stdin: true, Stdout: true, Stderr: true,
	}, scheme.ParameterCodec).URL()
	return map[string]remotecommand.Executor{
		"SPDY":      must(remotecommand.NewSPDYExecutor(config, "POST", url))(t),
		"WebSocket": must(remotecommand.NewWebSocketExecutor(config, "GET", url.String()))(t),
	}
}

func TestExec(t *testing.T) {
	s, _ := cluster(t)
	data := make([]byte, 20<<20)
	if _, err := rand.New(rand.NewSource(1)).Read(data); err != nil {
		t.Fatal(err)
	}
	for name, e := range executors(t, s.Config("admin"), "0") {
		sum := sha256.New()
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: bytes.NewReader(data), Stdout: sum, Stderr: io.Discard})
		if err != nil || !bytes.Equal(sum.Sum(nil), sha256Of(data)) {
			t.Errorf("%s: 20 MiB there and back: %v", name, err)
		}
	}
	for name, e := range executors(t, s.Config("admin"), "fails") {
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
		if exit, ok := err.(exec.ExitError); !ok || exit.ExitStatus() != 7 {
			t.Errorf("%s: got %v, want exit code 7", name, err)
		}
	}
	// Eve may get pods/exec but not create it: no method lets her in.
	for name, e := range executors(t, s.Config("eve"), "0") {
		err := e.StreamWithContext(ctx, remotecommand.StreamOptions{Stdin: strings.NewReader(""), Stdout: io.Discard, Stderr: io.Discard})
		if err == nil || !strings.Contains(err.Error(), `User "eve" cannot create resource "pods/exec" in API group "" in the namespace "n"`) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func sha256Of(data []byte) []byte {
	sum := sha256.Sum256(data)
	return sum[:]
}

func TestPortForward(t *testing.T) {
	s, _ := cluster(t)
	config := s.Config("admin")
	url := s.Client(t).CoreV1().RESTClient().Post().Resource("pods").Namespace("n").Name("p").SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		t.Fatal(err)
	}
	dialers := map[string]httpstream.Dialer{
		"SPDY":      spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: transport}, "POST", url),
		"WebSocket": must(portforward.NewSPDYOverWebsocketDialerForStreaming(url, config))(t),
	}
	for name, dialer := range dialers {
		t.Run(name, func(t *testing.T) {
			stop, ready, done := make(chan struct{}), make(chan struct{}), make(chan error, 1)
			f := must(portforward.NewOnAddressesForStreaming(dialer, []string{"127.0.0.1"}, []string{"0:80", "0:81"}, stop, ready, io.Discard, io.Discard))(t)
			go func() { done <- f.ForwardPorts() }()
			select {
			case <-ready:
			case err := <-done:
				t.Fatal(err)
			}
			ports := must(f.GetPorts())(t)
			for i := range 5 {
				want := strings.Repeat(fmt.Sprint(i), 100_000)
				if got := talk(t, ports[i%2].Local, want); got != want {
					t.Errorf("sent %d bytes, got %d back", len(want), len(got))
				}
			}
			close(stop)
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
	}
}

// talk sends text to a local port, closes its half, and returns what comes back.
func talk(t *testing.T, port uint16, text string) string {
	t.Helper()
	conn := must(net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port)))(t)
	defer conn.Close()
	go func() {
		_, _ = io.WriteString(conn, text)
		_ = conn.(*net.TCPConn).CloseWrite()
	}()
	got, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	return string(got)
}

func TestNodeProxy(t *testing.T) {
	s, _ := cluster(t)
	if status, _, body := do(t, s, "GET", "/api/v1/nodes/node-1/proxy/pods/?a=b", ""); status != http.StatusOK || body != "page /pods/" {
		t.Errorf("%d %s", status, body)
	}
	// Redirects are for the client to follow, or not.
	client := s.HTTP(t)
	client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	resp := must(client.Get(s.URL + "/api/v1/nodes/node-1/proxy/away"))(t)
	resp.Body.Close()
	if resp.StatusCode != http.StatusFound {
		t.Errorf("a redirect gave %d", resp.StatusCode)
	}
	// Another port of a node on loopback would be any service of the server's own machine.
	if status, _, body := do(t, s, "GET", "/api/v1/nodes/node-1:22/proxy/", ""); status != http.StatusBadRequest || !strings.Contains(body, "address not allowed") {
		t.Errorf("%d %s", status, body)
	}
	if status, _, _ := do(t, s, "GET", "/api/v1/nodes/none/proxy/", ""); status != http.StatusNotFound {
		t.Errorf("no node: %d", status)
	}
}

// A kubelet whose certificate another authority signed is not spoken to.
func TestForeignKubelet(t *testing.T) {
	other := servertest.NewAuthority(t)
	s := servertest.Start(t, func(c *apiserver.Config) {
		c.Kubelet = &apiserver.KubeletClient{Cert: c.ClientCA.(*servertest.Authority).ClientCert(t, "x"), CA: other}
	})
	certs, key := s.CA.Serving(t, "127.0.0.1").CurrentCertKeyContent()
	pair := must(tls.X509KeyPair(certs, key))(t)
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { t.Error("it was") }))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	server.StartTLS()
	defer server.Close()
	must(s.Client(t).CoreV1().Nodes().Create(ctx, &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: "node-1"},
		Status: corev1.NodeStatus{
			Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
			DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: int32(server.Listener.Addr().(*net.TCPAddr).Port)}},
		},
	}, metav1.CreateOptions{}))(t)
	if status, _, body := do(t, s, "GET", "/api/v1/nodes/node-1/proxy/", ""); status != http.StatusServiceUnavailable || !strings.Contains(body, "certificate signed by unknown authority") {
		t.Errorf("%d %s", status, body)
	}
}

func TestBinding(t *testing.T) {
	s := servertest.Start(t, nil)
	namespace(t, s.Client(t), "n")
	pods := s.Client(t).CoreV1().Pods("n")
	made := must(pods.Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	bind := func(node string, meta metav1.ObjectMeta) error {
		meta.Name = "p"
		return pods.Bind(ctx, &corev1.Binding{ObjectMeta: meta, Target: corev1.ObjectReference{Kind: "Node", Name: node}}, metav1.CreateOptions{})
	}
	if err := bind("a", metav1.ObjectMeta{UID: "other"}); !apierrors.IsConflict(err) {
		t.Errorf("of another Pod: %v", err)
	}
	if err := bind("", metav1.ObjectMeta{}); !apierrors.IsInvalid(err) {
		t.Errorf("to no node: %v", err)
	}
	if err := bind("a", metav1.ObjectMeta{UID: made.UID, Annotations: map[string]string{"k": "v"}}); err != nil {
		t.Fatal(err)
	}
	err := bind("b", metav1.ObjectMeta{})
	want := `Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "a"`
	if !apierrors.IsConflict(err) || err.Error() != want {
		t.Errorf("twice: %v", err)
	}
	got := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if got.Spec.NodeName != "a" || got.Annotations["k"] != "v" || got.Status.Conditions[0].Type != corev1.PodScheduled || got.Status.Conditions[0].Status != corev1.ConditionTrue {
		t.Errorf("bound: %v %v", got.Spec.NodeName, got.Status.Conditions)
	}
}

func TestEviction(t *testing.T) {
	s := servertest.Start(t, nil)
	namespace(t, s.Client(t), "n")
	pods := s.Client(t).CoreV1().Pods("n")
	must(pods.Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	evict := func(o *metav1.DeleteOptions) error {
		return pods.EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}, DeleteOptions: o})
	}
	if err := evict(&metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions("other")}); !apierrors.IsConflict(err) {
		t.Errorf("of another Pod: %v", err)
	}
	if err := evict(&metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Error(err)
	}
	p := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if len(p.Status.Conditions) != 0 {
		t.Errorf("not evicted, and has %v", p.Status.Conditions)
	}
	if err := evict(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: ptr.To("1")}}); !apierrors.IsConflict(err) {
		t.Errorf("of an old version: %v", err)
	}
	// A finalizer keeps it, so that what the eviction says of it can be seen.
	p.Finalizers = []string{"example.com/wait"}
	p = must(pods.Update(ctx, p, metav1.UpdateOptions{}))(t)
	if err := evict(&metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &p.ResourceVersion}}); err != nil {
		t.Fatal(err)
	}
	p = must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if c := p.Status.Conditions; p.DeletionTimestamp == nil || len(c) != 1 || c[0].Type != corev1.DisruptionTarget || c[0].Status != corev1.ConditionTrue ||
		c[0].Reason != "EvictionByEvictionAPI" || c[0].Message != "Eviction API: evicting" {
		t.Errorf("evicted, and has %v", c)
	}
	if err := evict(nil); err != nil {
		t.Errorf("again: %v", err)
	}
	p.Finalizers = nil
	must(pods.Update(ctx, p, metav1.UpdateOptions{}))(t)
	if _, err := pods.Get(ctx, "p", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("evicted: %v", err)
	}
}

func TestEphemeralContainersAndResize(t *testing.T) {
	s := servertest.Start(t, nil)
	namespace(t, s.Client(t), "n")
	pods := s.Client(t).CoreV1().Pods("n")
	p := must(pods.Create(ctx, pod("p"), metav1.CreateOptions{}))(t)
	p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{
		Name: "debug", Image: "i", ImagePullPolicy: "Always", TerminationMessagePolicy: "File",
	}}}
	p.Spec.Containers[0].Image = "smuggled"
	p = must(pods.UpdateEphemeralContainers(ctx, "p", p, metav1.UpdateOptions{}))(t)
	if len(p.Spec.EphemeralContainers) != 1 || p.Spec.Containers[0].Image != "i" || p.Generation != 2 {
		t.Errorf("got %v, generation %d", p.Spec, p.Generation)
	}
	p.Spec.EphemeralContainers = nil
	_, err := pods.UpdateEphemeralContainers(ctx, "p", p, metav1.UpdateOptions{})
	if err == nil || !strings.Contains(err.Error(), `existing ephemeral containers "debug" may not be removed`) {
		t.Errorf("removed: %v", err)
	}
}

// A Pod that claims an address of the server's own machine does not thereby get the server to talk to it.
func TestProxyToLoopback(t *testing.T) {
	s, _ := cluster(t)
	c := s.Client(t)
	p := must(c.CoreV1().Pods("n").Get(ctx, "p", metav1.GetOptions{}))(t)
	p.Status.PodIP = "127.0.0.1"
	p.Status.PodIPs = []corev1.PodIP{{IP: "127.0.0.1"}}
	must(c.CoreV1().Pods("n").UpdateStatus(ctx, p, metav1.UpdateOptions{}))(t)
	if status, _, body := do(t, s, "GET", "/api/v1/namespaces/n/pods/p:80/proxy/", ""); status != http.StatusBadRequest || !strings.Contains(body, "address not allowed") {
		t.Errorf("%d %s", status, body)
	}
	must(c.CoreV1().Services("n").Create(ctx, &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: corev1.ServiceSpec{Ports: []corev1.ServicePort{{Port: 80}}},
	}, metav1.CreateOptions{}))(t)
	if status, _, body := do(t, s, "GET", "/api/v1/namespaces/n/services/s:81/proxy/", ""); status != http.StatusServiceUnavailable || !strings.Contains(body, `no service port 81 found for service`) {
		t.Errorf("%d %s", status, body)
	}
}

func TestEvictionKeepsToTheBudget(t *testing.T) {
	s := servertest.Start(t, nil)
	c := s.Client(t)
	namespace(t, c, "n")
	labelled := pod("p")
	labelled.Labels = map[string]string{"app": "x"}
	running := must(c.CoreV1().Pods("n").Create(ctx, labelled, metav1.CreateOptions{}))(t)
	running.Status.Phase = corev1.PodRunning
	must(c.CoreV1().Pods("n").UpdateStatus(ctx, running, metav1.UpdateOptions{}))(t)
	budgets := c.PolicyV1().PodDisruptionBudgets("n")
	b := must(budgets.Create(ctx, &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "b"},
		Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: labelled.Labels}},
	}, metav1.CreateOptions{}))(t)
	evict := func() error {
		return c.CoreV1().Pods("n").EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p"}})
	}
	// By hand: the client would wait and try again, as it is told to.
	const body = `{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"}}`
	status, header, answer := do(t, s, "POST", "/api/v1/namespaces/n/pods/p/eviction", body, "Content-Type", "application/json")
	if status != http.StatusTooManyRequests || header.Get("Retry-After") != "10" || !strings.Contains(answer, "The disruption budget b is still being processed by the server.") {
		t.Errorf("before its controller saw the budget: %d %s", status, answer)
	}
	b.Status.ObservedGeneration, b.Status.DisruptionsAllowed = b.Generation, 1
	must(budgets.UpdateStatus(ctx, b, metav1.UpdateOptions{}))(t)
	if err := evict(); err != nil {
		t.Fatal(err)
	}
	if b = must(budgets.Get(ctx, "b", metav1.GetOptions{}))(t); b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 1 {
		t.Errorf("the budget is %+v", b.Status)
	}
}
