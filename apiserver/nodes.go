package apiserver

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/usage"
)

// KubeletClient is how the server shows itself to kubelets, and knows them.
type KubeletClient struct {
	// Cert is the client certificate; it may change at any time.
	Cert dynamiccertificates.CertKeyContentProvider
	// CA signs the kubelets' serving certificates.
	CA dynamiccertificates.CAContentProvider
	// Metrics is the client certificate with which it is asked what nodes and Pods use: who has it needs no other right. Optional:
	// without it nothing is measured.
	Metrics ShownCertificate
}

// ShownCertificate returns the client certificate for a connection, as tls.Config.GetClientCertificate does.
type ShownCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error)

// nodeConnector reaches the kubelets of registered nodes.
type nodeConnector struct {
	bundle dynamiccertificates.CAContentProvider
	shown  ShownCertificate
	store  func(schema.GroupResource) *genericregistry.Store
	pods   *http.Transport

	mu        sync.Mutex
	certs     *x509.CertPool
	ca        string // the bundle that certs was parsed from
	transport *http.Transport
}

var (
	_ resource.NodeConnector = (*nodeConnector)(nil)
	_ usage.Kubelets         = (*nodeConnector)(nil)
)

// newNodeConnector connects to kubelets whose certificates are signed by one of bundle.
func newNodeConnector(bundle dynamiccertificates.CAContentProvider, shown ShownCertificate,
	store func(schema.GroupResource) *genericregistry.Store) *nodeConnector {
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	return &nodeConnector{
		bundle: bundle,
		shown:  shown,
		store:  store,
		// Pods may serve TLS with any certificate: who asks for https asks for the encryption only, as upstream does.
		pods: &http.Transport{
			DialContext:         dialer.DialContext,
			TLSClientConfig:     &tls.Config{InsecureSkipVerify: true},
			TLSHandshakeTimeout: 10 * time.Second,
			MaxIdleConns:        16,
			IdleConnTimeout:     30 * time.Second,
		},
	}
}

func (c *nodeConnector) Pods() http.RoundTripper { return c.pods }

// Kubelet reads the node and returns the internal address and the port at which its kubelet is registered.
func (c *nodeConnector) Kubelet(ctx context.Context, name string) (*url.URL, http.RoundTripper, error) {
	nodes := c.store(schema.GroupResource{Resource: "nodes"})
	if nodes == nil {
		return nil, nil, errors.New("reach kubelet: nodes are not served")
	}
	obj, err := nodes.Get(request.WithNamespace(ctx, ""), name, &metav1.GetOptions{})
	if err != nil {
		return nil, nil, err
	}
	node := obj.(*corev1.Node)
	address, err := internalAddress(node)
	if err != nil {
		return nil, nil, err
	}
	port := node.Status.DaemonEndpoints.KubeletEndpoint.Port
	if port == 0 {
		return nil, nil, apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has not registered its kubelet's port", name))
	}
	transport, err := c.kubeletTransport()
	if err != nil {
		return nil, nil, fmt.Errorf("reach kubelet of node %s: %w", name, err)
	}
	return &url.URL{Scheme: "https", Host: net.JoinHostPort(address, strconv.Itoa(int(port)))}, transport, nil
}

// internalAddress is the address under which a node's kubelet is reached: the first internal IP, or where there is none
// the first of the other addresses, in the order of upstream's preference.
func internalAddress(node *corev1.Node) (string, error) {
	for _, t := range []corev1.NodeAddressType{corev1.NodeInternalIP, corev1.NodeExternalIP} {
		for _, a := range node.Status.Addresses {
			if a.Type == t && net.ParseIP(a.Address) != nil {
				return a.Address, nil
			}
		}
	}
	return "", apierrors.NewServiceUnavailable(fmt.Sprintf("node %s has not registered an internal address", node.Name))
}

// kubeletTransport verifies that the kubelet's certificate is the cluster's, and for the address that is dialled.
func (c *nodeConnector) kubeletTransport() (http.RoundTripper, error) {
	bundle := c.bundle.CurrentCABundleContent()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil && c.ca == string(bundle) {
		return c.transport, nil
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(bundle) {
		return nil, errors.New("the CA bundle for kubelets holds no certificate")
	}
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
	dialer := &net.Dialer{Timeout: 30 * time.Second, KeepAlive: 30 * time.Second}
	c.ca, c.certs = string(bundle), pool
	c.transport = &http.Transport{
		DialContext: dialer.DialContext,
		TLSClientConfig: &tls.Config{
			MinVersion:           tls.VersionTLS12,
			RootCAs:              pool,
			GetClientCertificate: c.shown,
		},
		TLSHandshakeTimeout: 10 * time.Second,
		MaxIdleConnsPerHost: 25,
		IdleConnTimeout:     30 * time.Second,
	}
	return c.transport, nil
}

// CloseIdle drops the connections that are kept for later.
func (c *nodeConnector) CloseIdle() {
	c.pods.CloseIdleConnections()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.transport != nil {
		c.transport.CloseIdleConnections()
	}
}

// newSampler makes what measures nodes and Pods.
func (s *Server) newSampler(k *KubeletClient) (*usage.Sampler, error) {
	return usage.New(usage.Config{Nodes: s.measuredNodes, Kubelets: newNodeConnector(k.CA, k.Metrics, s.store)})
}

// measuredNodes lists the nodes.
func (s *Server) measuredNodes(ctx context.Context) ([]usage.Node, error) {
	nodes := s.store(schema.GroupResource{Resource: "nodes"})
	if nodes == nil {
		return nil, errors.New("nodes are not served")
	}
	list, err := nodes.List(request.WithNamespace(ctx, ""), &metainternalversion.ListOptions{})
	if err != nil {
		return nil, err
	}
	var out []usage.Node
	err = meta.EachListItem(list, func(obj runtime.Object) error {
		n := obj.(*corev1.Node)
		out = append(out, usage.Node{Name: n.Name, Ready: slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
			return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
		})})
		return nil
	})
	return out, err
}
