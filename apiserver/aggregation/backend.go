package aggregation

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"sync/atomic"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/peapod/peapod/apiserver/pki"
)

// backend is the server behind one APIService.
type backend struct {
	name string
	gv   schema.GroupVersion
	// reached is how it is reached; another one makes another backend.
	reached apiregistrationv1.APIServiceSpec
	port    int32
	service *serviceWatch

	transport *http.Transport
	// broken says why there is no transport.
	broken error
	// available says that requests are forwarded.
	available atomic.Bool

	// Of what follows only the APIService's worker knows. kinds is what was last heard, asked when that was.
	kinds apidiscoveryv2.APIVersionDiscovery
	asked time.Time
}

// checkLimit bounds a request that this server makes of its own accord.
const checkLimit = 5 * time.Second

// mostAnswer bounds what is read of an answer: the largest OpenAPI documents have some megabytes.
const mostAnswer = 64 << 20

// connection is the part of a spec that says how the server is reached.
func connection(s *apiregistrationv1.APIService) apiregistrationv1.APIServiceSpec {
	return apiregistrationv1.APIServiceSpec{
		Service: s.Spec.Service, InsecureSkipTLSVerify: s.Spec.InsecureSkipTLSVerify, CABundle: s.Spec.CABundle,
	}
}

func newBackend(s *apiregistrationv1.APIService, service *serviceWatch, cert dynamiccertificates.CertKeyContentProvider) *backend {
	b := &backend{
		name: s.Name, gv: schema.GroupVersion{Group: s.Spec.Group, Version: s.Spec.Version}, reached: connection(s), port: 443, service: service,
	}
	if p := s.Spec.Service.Port; p != nil {
		b.port = *p
	}
	b.transport, b.broken = newTransport(&s.Spec, cert)
	return b
}

// newTransport verifies that the server's certificate is for the Service's name in DNS, and of the bundle if there is one.
func newTransport(s *apiregistrationv1.APIServiceSpec, cert dynamiccertificates.CertKeyContentProvider) (*http.Transport, error) {
	config := &tls.Config{
		MinVersion: tls.VersionTLS12, ServerName: s.Service.Name + "." + s.Service.Namespace + ".svc", InsecureSkipVerify: s.InsecureSkipTLSVerify,
	}
	if len(s.CABundle) > 0 {
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(s.CABundle) {
			return nil, errors.New("unable to load root certificates: spec.caBundle holds no PEM certificate")
		}
	}
	if cert != nil {
		config.GetClientCertificate = pki.ClientCertificate(cert)
	}
	return utilnet.SetTransportDefaults(&http.Transport{
		// The cluster's own: no proxy of the machine's environment lies between.
		Proxy:           func(*http.Request) (*url.URL, error) { return nil, nil },
		TLSClientConfig: config,
	}), nil
}

// close drops the connections that are kept for later.
func (b *backend) close() {
	if b.transport != nil {
		b.transport.CloseIdleConnections()
	}
}

// host is where the Service is reached just now: its cluster IP, or the name that it stands for.
func (b *backend) host() (string, error) {
	one := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	if s := b.service.current(); s != nil {
		if err := one.Add(s); err != nil {
			return "", err
		}
	}
	found, err := apiproxy.ResolveCluster(corelisters.NewServiceLister(one), b.service.name.Namespace, b.service.name.Name, b.port)
	if err != nil {
		return "", err
	}
	return found.Host, nil
}

// asker is who this server is to servers behind it when it asks of its own accord.
func asker() user.Info {
	return &user.DefaultInfo{Name: "system:kube-aggregator", Groups: []string{user.SystemPrivilegedGroup}}
}

// answer is what a server said.
type answer struct {
	url    string
	status int
	header http.Header
	body   []byte
}

// get asks the server of this one's own accord. Redirects are not followed.
func (b *backend) get(ctx context.Context, path string, header http.Header) (*answer, error) {
	if b.broken != nil {
		return nil, b.broken
	}
	host, err := b.host()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, checkLimit)
	defer cancel()
	target := (&url.URL{Scheme: "https", Host: host, Path: path}).String()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, target, nil)
	if err != nil {
		return nil, err
	}
	for k, v := range header {
		req.Header[k] = v
	}
	as := asker()
	transport.SetAuthProxyHeaders(req, as.GetName(), as.GetUID(), as.GetGroups(), as.GetExtra())
	resp, err := b.transport.RoundTrip(req)
	if err != nil {
		return nil, fmt.Errorf("failing or missing response from %s: %w", target, err)
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(io.LimitReader(resp.Body, mostAnswer+1))
	if err != nil {
		return nil, fmt.Errorf("read response from %s: %w", target, err)
	}
	if len(body) > mostAnswer {
		return nil, fmt.Errorf("read response from %s: it has more than %d bytes", target, mostAnswer)
	}
	return &answer{target, resp.StatusCode, resp.Header, body}, nil
}

// path is that of the group version.
func (b *backend) path() string {
	if b.gv.Group == "" {
		return "/api/" + b.gv.Version
	}
	return "/apis/" + b.gv.Group + "/" + b.gv.Version
}

// again is how many times the server is asked, at once, after it has failed: with several endpoints one alone may be wrong.
const again = 4

// probe asks for the kinds of the group version, which every server must have, and is satisfied with one good answer.
func (b *backend) probe(ctx context.Context) error {
	once := func() error {
		a, err := b.get(ctx, b.path(), nil)
		if err == nil && (a.status < http.StatusOK || a.status >= http.StatusMultipleChoices) {
			err = fmt.Errorf("failing or missing response from %s: bad status from %s: %d", a.url, a.url, a.status)
		}
		return err
	}
	last := once()
	if last == nil {
		return nil
	}
	b.close()
	results := make(chan error, again)
	for range again {
		go func() { results <- once() }()
	}
	for range again {
		if err := <-results; err == nil {
			last = nil
		} else if last != nil {
			last = err
		}
	}
	if last != nil {
		b.close()
	}
	return last
}

// condition finds out whether the server is there, as the object's condition Available says it.
func (b *backend) condition(ctx context.Context) apiregistrationv1.APIServiceCondition {
	c := apiregistrationv1.APIServiceCondition{Type: apiregistrationv1.Available, LastTransitionTime: metav1.Now()}
	set := func(status apiregistrationv1.ConditionStatus, reason, message string) apiregistrationv1.APIServiceCondition {
		c.Status, c.Reason, c.Message = status, reason, message
		return c
	}
	at := fmt.Sprintf("service/%s in %q", b.service.name.Name, b.service.name.Namespace)
	if !b.service.known(ctx) {
		return set(apiregistrationv1.ConditionUnknown, "ServiceAccessError", at+" cannot be checked due to: no answer in time")
	}
	s := b.service.current()
	if s == nil {
		return set(apiregistrationv1.ConditionFalse, "ServiceNotFound", at+" is not present")
	}
	if s.Spec.Type == corev1.ServiceTypeClusterIP {
		if reason, message := b.leads(s, at); reason != "" {
			return set(apiregistrationv1.ConditionFalse, reason, message)
		}
	}
	if err := b.probe(ctx); err != nil {
		return set(apiregistrationv1.ConditionFalse, "FailedDiscoveryCheck", err.Error())
	}
	return set(apiregistrationv1.ConditionTrue, "Passed", "all checks passed")
}

// leads says why a Service with a cluster IP leads nowhere; nothing if it does not.
func (b *backend) leads(s *corev1.Service, at string) (reason, message string) {
	port, found := "", false
	for _, p := range s.Spec.Ports {
		if p.Port == b.port {
			port, found = p.Name, true
			break
		}
	}
	if !found {
		return "ServicePortError", fmt.Sprintf("%s is not listening on port %d", at, b.port)
	}
	switch any, ready := b.service.endpoints(port); {
	case !any:
		return "EndpointsNotFound", "cannot find endpointslices for " + at
	case !ready:
		return "MissingEndpoints", fmt.Sprintf("endpointslices for %s have no addresses with port name %q", at, port)
	}
	return "", ""
}

func serviceOf(s *apiregistrationv1.APIService) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Spec.Service.Namespace, Name: s.Spec.Service.Name}
}
