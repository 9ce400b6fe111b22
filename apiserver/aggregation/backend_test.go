package aggregation_test

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/servertest"
)

const (
	namespace = "default"
	group     = "wardle.example.com"
	version   = "v1alpha1"
	root      = "/apis/" + group + "/" + version
	object    = version + "." + group
	flunders  = root + "/namespaces/default/flunders"
)

// wardle is a server of kind Flunder behind the one under test. It believes its client's certificate alone.
type wardle struct {
	*httptest.Server
	ca   *servertest.Authority
	port int32

	mu sync.Mutex
	// seen are the requests for anything but what describes the server, without their bodies; down has it fail them all.
	seen []*http.Request
	down bool
	// hold is what a watch waits for between its two events.
	hold chan struct{}
}

// newServer starts the server under test and the certificates that it has for those behind it.
func newServer(t *testing.T) (*servertest.Server, *servertest.Authority) {
	t.Helper()
	front := servertest.NewAuthority(t)
	return servertest.Start(t, func(c *apiserver.Config) { c.FrontProxy = front.ClientCert(t, "front-proxy-client") }), front
}

// newWardle starts a server for Service "api" that takes the certificates of the front proxy.
func newWardle(t *testing.T, front *servertest.Authority) *wardle {
	t.Helper()
	b := &wardle{ca: servertest.NewAuthority(t), hold: make(chan struct{})}
	pair, err := tls.X509KeyPair(b.ca.ServingName(t, "api."+namespace+".svc").CurrentCertKeyContent())
	if err != nil {
		t.Fatal(err)
	}
	clients := x509.NewCertPool()
	clients.AppendCertsFromPEM(front.CurrentCABundleContent())
	b.Server = httptest.NewUnstartedServer(b)
	b.EnableHTTP2 = true
	b.TLS = &tls.Config{Certificates: []tls.Certificate{pair}, ClientAuth: tls.RequireAndVerifyClientCert, ClientCAs: clients}
	b.StartTLS()
	t.Cleanup(b.Close)
	_, port, err := net.SplitHostPort(b.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	n, err := strconv.Atoi(port)
	if err != nil {
		t.Fatal(err)
	}
	b.port = int32(n)
	return b
}

// service leads to the server by name: no network of a cluster is needed for it.
func (b *wardle) service() *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "api", Namespace: namespace},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}
}

func (b *wardle) apiService() *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: object},
		Spec: apiregistrationv1.APIServiceSpec{
			Service: &apiregistrationv1.ServiceReference{Namespace: namespace, Name: "api", Port: ptr.To(b.port)},
			Group:   group, Version: version, CABundle: b.ca.CurrentCABundleContent(), GroupPriorityMinimum: 2000, VersionPriority: 200,
		},
	}
}

func (b *wardle) fail(down bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.down = down
}

// requests returns what was asked of it by clients.
func (b *wardle) requests() []*http.Request {
	b.mu.Lock()
	defer b.mu.Unlock()
	return append([]*http.Request(nil), b.seen...)
}

func (b *wardle) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	b.mu.Lock()
	down := b.down
	if strings.HasPrefix(req.URL.Path, root+"/") {
		b.seen = append(b.seen, req.Clone(req.Context()))
	}
	b.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	switch {
	case down:
		http.Error(w, "down", http.StatusInternalServerError)
	case req.URL.Path == root:
		write(w, metav1.APIResourceList{TypeMeta: metav1.TypeMeta{Kind: "APIResourceList", APIVersion: "v1"}, GroupVersion: group + "/" + version,
			APIResources: []metav1.APIResource{{Name: "flunders", SingularName: "flunder", Kind: "Flunder", Namespaced: true,
				Verbs: metav1.Verbs{"create", "delete", "get", "list", "watch"}}}})
	case req.URL.Path == "/openapi/v2":
		_, _ = io.WriteString(w, openapiV2)
	case req.URL.Path == flunders+"/elsewhere":
		http.Redirect(w, req, "https://example.com/stolen", http.StatusTemporaryRedirect)
	case req.URL.Path == flunders+"/stream" && req.Header.Get("Upgrade") != "":
		b.echo(w)
	case req.URL.Path == flunders && req.URL.Query().Get("watch") == "true":
		b.watch(w)
	case req.URL.Path == flunders && req.Method == http.MethodPost:
		body, _ := io.ReadAll(req.Body)
		w.WriteHeader(http.StatusCreated)
		_, _ = w.Write(body)
	case req.URL.Path == flunders:
		fmt.Fprintf(w, `{"kind":"FlunderList","apiVersion":"%s/%s","metadata":{"resourceVersion":"1"},"items":[]}`, group, version)
	default:
		http.NotFound(w, req)
	}
}

// watch sends an event, waits, and sends another.
func (b *wardle) watch(w http.ResponseWriter) {
	const event = `{"type":"%s","object":{"kind":"Flunder","apiVersion":"` + group + "/" + version + `","metadata":{"name":"f"}}}` + "\n"
	fmt.Fprintf(w, event, "ADDED")
	w.(http.Flusher).Flush()
	<-b.hold
	fmt.Fprintf(w, event, "DELETED")
}

// echo takes over the connection and says back what it hears.
func (b *wardle) echo(w http.ResponseWriter) {
	conn, rw, err := w.(http.Hijacker).Hijack()
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer func() { _ = conn.Close() }()
	_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	_, _ = io.Copy(conn, rw)
}

// endpointSlice is one of Service api.
func endpointSlice(ready *bool) *discoveryv1.EndpointSlice {
	return &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Name: "api", Namespace: namespace, Labels: map[string]string{discoveryv1.LabelServiceName: "api"}},
		AddressType: discoveryv1.AddressTypeIPv4, Ports: []discoveryv1.EndpointPort{{Name: ptr.To("tls"), Port: ptr.To[int32](1)}},
		Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.1.2.3"}, Conditions: discoveryv1.EndpointConditions{Ready: ready}}},
	}
}

func write(w io.Writer, obj any) { _ = json.NewEncoder(w).Encode(obj) }

const openapiV2 = `{"swagger":"2.0","info":{"title":"wardle","version":"1"},
"paths":{"` + root + `/namespaces/{namespace}/flunders":{"get":{"produces":["application/json"],"responses":{"200":{"description":"OK","schema":{"$ref":"#/definitions/wardle.Flunder"}}},
"x-kubernetes-action":"list","x-kubernetes-group-version-kind":{"group":"` + group + `","version":"` + version + `","kind":"Flunder"}}},
"/apis/other.example.com/v1/things":{"get":{"responses":{"200":{"description":"OK"}}}}},
"definitions":{"wardle.Flunder":{"description":"Flunder is what wardles have.","type":"object",
"properties":{"apiVersion":{"type":"string"},"kind":{"type":"string"},"spec":{"description":"What it is to be.","type":"string"}},
"x-kubernetes-group-version-kind":[{"group":"` + group + `","version":"` + version + `","kind":"Flunder"}]}}}`
