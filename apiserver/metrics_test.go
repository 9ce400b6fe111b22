package apiserver_test

import (
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metricsclient "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/apiserver/servertest"
)

// measured is a server with nodes "a", whose kubelet says that two Pods on it use half a core, and "b", which has none. asked takes
// who asked for what.
func measured(t *testing.T) (s *servertest.Server, asked chan string) {
	t.Helper()
	s = servertest.Start(t, func(c *apiserver.Config) {
		ca := c.ClientCA.(*servertest.Authority)
		c.Kubelet = &apiserver.KubeletClient{
			Cert: ca.ClientCert(t, "the-api-server"), CA: ca, Metrics: pki.ClientCertificate(ca.ClientCert(t, "the-meter")),
		}
	})
	asked = make(chan string, 100)
	began := time.Now()
	kubelet := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		asked <- r.TLS.PeerCertificates[0].Subject.CommonName + " " + r.Method + " " + r.URL.Path
		used, ms := time.Since(began).Seconds()/2, time.Now().UnixMilli()
		fmt.Fprintf(w, "node_cpu_usage_seconds_total %[1]g %[2]d\nnode_memory_working_set_bytes 1048576 %[2]d\n", used, ms)
		for _, pod := range []string{"one", "two", "pending"} {
			fmt.Fprintf(w, "container_cpu_usage_seconds_total{container=\"c\",namespace=\"n\",pod=%q} %g %d\n", pod, used, ms)
			fmt.Fprintf(w, "container_memory_working_set_bytes{container=\"c\",namespace=\"n\",pod=%q} 1024 %d\n", pod, ms)
		}
	}))
	pair, err := tls.X509KeyPair(s.CA.Serving(t, "127.0.0.1").CurrentCertKeyContent())
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(s.CA.CurrentCABundleContent())
	kubelet.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: pool}
	kubelet.StartTLS()
	t.Cleanup(kubelet.Close)

	c := s.Client(t)
	node := func(name string, port int32) {
		must(c.CoreV1().Nodes().Create(ctx, &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"zone": name}},
			Status: corev1.NodeStatus{
				Conditions:      []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				Addresses:       []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "127.0.0.1"}},
				DaemonEndpoints: corev1.NodeDaemonEndpoints{KubeletEndpoint: corev1.DaemonEndpoint{Port: port}},
			},
		}, metav1.CreateOptions{}))(t)
	}
	node("a", int32(kubelet.Listener.Addr().(*net.TCPAddr).Port))
	node("b", 1)
	namespace(t, c, "n")
	for name, phase := range map[string]corev1.PodPhase{"one": corev1.PodRunning, "two": corev1.PodRunning, "pending": corev1.PodPending, "elsewhere": corev1.PodRunning} {
		p := pod(name)
		p.Labels, p.Spec.NodeName = map[string]string{"app": name}, "a"
		if name == "elsewhere" {
			p.Spec.NodeName = "b"
		}
		made := must(c.CoreV1().Pods("n").Create(ctx, p, metav1.CreateOptions{}))(t)
		made.Status.Phase = phase
		must(c.CoreV1().Pods("n").UpdateStatus(ctx, made, metav1.UpdateOptions{}))(t)
	}
	return s, asked
}

// TestMetrics: what runs and was measured has metrics, by name, label and field; the kubelet is asked for nothing else, by one who is
// allowed nothing else, and not before somebody wants to know.
func TestMetrics(t *testing.T) {
	s, asked := measured(t)
	c, err := metricsclient.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	if empty := must(c.PodMetricses("other").List(ctx, metav1.ListOptions{}))(t); len(empty.Items) != 0 || len(asked) != 0 {
		t.Errorf("where nothing is, %v uses something; a kubelet was asked %d times", empty.Items, len(asked))
	}
	pods := must(c.PodMetricses("n").List(ctx, metav1.ListOptions{}))(t).Items
	if len(pods) != 2 || pods[0].Name != "one" || pods[1].Name != "two" {
		t.Fatalf("pods are %+v", pods)
	}
	if p := pods[0]; p.Namespace != "n" || p.Labels["app"] != "one" || p.CreationTimestamp.IsZero() || p.Timestamp.IsZero() || p.Window.Duration < time.Second ||
		len(p.Containers) != 1 || p.Containers[0].Name != "c" || p.Containers[0].Usage.Memory().Value() != 1024 {
		t.Errorf("pod is %+v", p)
	}
	if got := pods[0].Containers[0].Usage.Cpu().MilliValue(); got < 490 || got > 510 {
		t.Errorf("it uses %dm, want 500m", got)
	}
	for i := range 2 {
		if got := <-asked; got != "the-meter GET /metrics/resource" {
			t.Errorf("request %d is %s", i, got)
		}
	}
	for _, o := range []metav1.ListOptions{
		{LabelSelector: "app in (two, pending)"}, {FieldSelector: "metadata.name=two,metadata.namespace=n"}, {LabelSelector: "app!=one", Limit: 1},
	} {
		if l := must(c.PodMetricses("").List(ctx, o))(t); len(l.Items) != 1 || l.Items[0].Name != "two" || l.Continue != "" {
			t.Errorf("pods by %v are %+v", o, l)
		}
	}
	if _, err := c.PodMetricses("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=a"}); !apierrors.IsBadRequest(err) {
		t.Errorf("pods by a field that metrics have not: %v", err)
	}
	for selector, want := range map[string]int{"": 1, "zone=a": 1, "zone!=a": 0} {
		if l := must(c.NodeMetricses().List(ctx, metav1.ListOptions{LabelSelector: selector}))(t); len(l.Items) != want {
			t.Errorf("nodes by label %q are %+v", selector, l.Items)
		}
	}
	if n := must(c.NodeMetricses().Get(ctx, "a", metav1.GetOptions{}))(t); n.Labels["zone"] != "a" || n.Usage.Memory().Value() != 1<<20 {
		t.Errorf("node is %+v", n)
	}
	for name, want := range map[string]string{
		"pending":   `podmetrics.metrics.k8s.io "n/pending" not found`,
		"elsewhere": `podmetrics.metrics.k8s.io "n/elsewhere" not found`,
		"none":      `"none" not found`,
	} {
		if _, err := c.PodMetricses("n").Get(ctx, name, metav1.GetOptions{}); !apierrors.IsNotFound(err) || !strings.HasSuffix(err.Error(), want) {
			t.Errorf("pod %s: %v", name, err)
		}
	}
	if _, err := c.NodeMetricses().Get(ctx, "b", metav1.GetOptions{}); err == nil || err.Error() != `nodemetrics.metrics.k8s.io "b" not found` {
		t.Errorf("node b: %v", err)
	}
	if _, err := c.NodeMetricses().Watch(ctx, metav1.ListOptions{}); !apierrors.IsMethodNotSupported(err) {
		t.Errorf("watch: %v", err)
	}
	denied, err := metricsclient.NewForConfig(s.Config("eve"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := denied.PodMetricses("n").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("who may not: %v", err)
	}
}

// TestMetricsTable: what `kubectl get` prints.
func TestMetricsTable(t *testing.T) {
	s, _ := measured(t)
	req, err := http.NewRequest(http.MethodGet, s.URL+"/apis/metrics.k8s.io/v1beta1/namespaces/n/pods", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io")
	resp, err := s.HTTP(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{`"name":"Name"`, `"name":"cpu"`, `"name":"memory"`, `"name":"Window"`, `"cells":["one","`, `"1Ki"`, `"cells":["two","`} {
		if !strings.Contains(string(body), want) {
			t.Errorf("table lacks %s: %s", want, body)
		}
	}
}

// TestNoMetrics: a server that reaches no kubelets says so, where there is something to measure.
func TestNoMetrics(t *testing.T) {
	s := servertest.Start(t, nil)
	c, err := metricsclient.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	if list, err := c.NodeMetricses().List(ctx, metav1.ListOptions{}); err != nil || len(list.Items) != 0 {
		t.Errorf("without nodes: %v, %v", list, err)
	}
	must(s.Client(t).CoreV1().Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n"}}, metav1.CreateOptions{}))(t)
	if _, err := c.NodeMetricses().List(ctx, metav1.ListOptions{}); !apierrors.IsServiceUnavailable(err) || !strings.Contains(err.Error(), "reaches no kubelets") {
		t.Errorf("with a node: %v", err)
	}
}
