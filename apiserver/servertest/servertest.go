// Package servertest runs a real API server for tests: the real kinds and store, on a listener of its own on loopback,
// with TLS. Access is simple: the token says who one is.
package servertest

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	utilnet "k8s.io/apimachinery/pkg/util/net"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	authunion "k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/token/tokenfile"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/peapod/peapod/api"
	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/internal/testca"
	"github.com/peapod/peapod/internal/version"
	"github.com/peapod/peapod/store"
)

// Server is a running API server.
type Server struct {
	*apiserver.Server
	// Transport reaches it in process.
	Transport *inprocess.Transport
	// CA issues serving and client certificates.
	CA *Authority
	// name is what its certificate says, if that is no address.
	name string
	// URL is where it listens; Store is where its objects are, and FS that store's disk.
	URL   string
	Store *store.Store
	FS    vfs.FS

	ended chan struct{}
	stop  func()
}

// Deny, as a user's group, is allowed nothing by the authorizer.
const Deny = "denied"

// Start runs a server until the test ends. Change, if not nil, may change the configuration.
func Start(t testing.TB, change func(*apiserver.Config)) *Server {
	t.Helper()
	s := New(t, nil, change)
	select {
	case <-s.Ready():
	case <-s.ended:
		t.Fatal("API server ended before it was ready")
	}
	return s
}

// New runs a server whose store is on fs, a new one if it is nil, and does not wait until it is ready.
func New(t testing.TB, fs vfs.FS, change func(*apiserver.Config)) *Server {
	t.Helper()
	if fs == nil {
		fs = vfs.NewMem()
	}
	ctx, cancel := context.WithCancel(context.Background())
	st, err := store.Open(ctx, store.Config{Dir: "/store", FS: fs})
	if err != nil {
		t.Fatalf("open store: %v", err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	s := &Server{Transport: inprocess.NewTransport(), CA: NewAuthority(t), URL: "https://" + l.Addr().String(), Store: st, FS: fs}
	config := apiserver.Config{
		Kinds:         api.All(),
		Storage:       st.Decorator(),
		Listener:      l,
		ServingCert:   s.CA.Serving(t, "127.0.0.1"),
		ClientCA:      s.CA,
		InProcess:     s.Transport,
		Authenticator: authunion.New(s.Transport.Authenticator(), bearertoken.New(tokens())),
		Authorizer:    authorizer.AuthorizerFunc(authorize),
		Rules:         authorizerfactory.NewAlwaysAllowAuthorizer(),
		ServiceCIDRs:  []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
		Version:       version.Info(),
	}
	if change != nil {
		change(&config)
	}
	s.Server, err = apiserver.New(config)
	if err != nil {
		t.Fatalf("make API server: %v", err)
	}
	s.ended = make(chan struct{})
	go func() {
		defer close(s.ended)
		if err := s.Run(ctx); err != nil {
			t.Errorf("API server ended with: %v", err)
		}
	}()
	s.stop = sync.OnceFunc(func() {
		// An HTTP/2 connection that the client leaves open is waited for for a second.
		if c, err := rest.HTTPClientFor(s.Config("admin")); err == nil {
			utilnet.CloseIdleConnectionsFor(c.Transport)
		}
		cancel()
		<-s.ended
		if err := st.Close(); err != nil {
			t.Errorf("close store: %v", err)
		}
	})
	t.Cleanup(s.stop)
	return s
}

// Behind runs a server that others reach as Service name of namespace default at Port, and that believes who has a certificate of front
// as to who asks. Its own authority signs its certificate.
func Behind(t testing.TB, name string, front *Authority) *Server {
	t.Helper()
	serving := NewAuthority(t)
	is := func(list ...string) headerrequest.StaticStringSlice { return list }
	s := Start(t, func(c *apiserver.Config) {
		c.ServingCert = serving.ServingName(t, name+".default.svc")
		c.Authenticator = authunion.New(c.Authenticator, headerrequest.NewDynamicVerifyOptionsSecure(front.VerifyOptions, is("front-proxy-client"),
			is("X-Remote-User"), is("X-Remote-Uid"), is("X-Remote-Group"), is("X-Remote-Extra-")))
	})
	s.CA, s.name = serving, name+".default.svc"
	return s
}

// Port is where it listens.
func (s *Server) Port(t testing.TB) int32 {
	t.Helper()
	at, err := netip.ParseAddrPort(strings.TrimPrefix(s.URL, "https://"))
	if err != nil {
		t.Fatal(err)
	}
	return int32(at.Port())
}

// Stop ends the server and waits for it.
func (s *Server) Stop() { s.stop() }

func authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	for _, g := range a.GetUser().GetGroups() {
		if g == Deny && (a.GetVerb() != "get" || a.GetSubresource() == "") {
			return authorizer.DecisionNoOpinion, "", nil
		}
	}
	return authorizer.DecisionAllow, "", nil
}

// tokens are those of "admin", a member of system:masters, and "eve", in group Deny: she may only get subresources.
func tokens() authenticator.Token {
	return tokenfile.New(map[string]*user.DefaultInfo{
		"admin": {Name: "admin", Groups: []string{user.SystemPrivilegedGroup, user.AllAuthenticated}},
		"eve":   {Name: "eve", Groups: []string{Deny, user.AllAuthenticated}},
	})
}

// Config is what a client over the network is made from; token is "admin" or "eve".
func (s *Server) Config(token string) *rest.Config {
	return &rest.Config{
		Host: s.URL, BearerToken: token, QPS: -1,
		TLSClientConfig: rest.TLSClientConfig{CAData: s.CA.CurrentCABundleContent(), ServerName: s.name},
	}
}

// Client returns the admin's client over the network.
func (s *Server) Client(t testing.TB) kubernetes.Interface {
	t.Helper()
	c, err := kubernetes.NewForConfig(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// HTTP returns the admin's plain HTTP client.
func (s *Server) HTTP(t testing.TB) *http.Client {
	t.Helper()
	c, err := rest.HTTPClientFor(s.Config("admin"))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// Authority is a certificate authority.
type Authority struct {
	dynamiccertificates.CAContentProvider
	ca *testca.Authority
}

// NewAuthority makes one.
func NewAuthority(t testing.TB) *Authority {
	t.Helper()
	ca := testca.New(t, "test CA")
	content, err := dynamiccertificates.NewStaticCAContent("test", ca.PEM)
	if err != nil {
		t.Fatal(err)
	}
	return &Authority{content, ca}
}

// Serving issues a certificate for a server at ip.
func (a *Authority) Serving(t testing.TB, ip string) dynamiccertificates.CertKeyContentProvider {
	t.Helper()
	return a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: ip}, IPAddresses: []net.IP{net.ParseIP(ip)},
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// ServingName issues a certificate for a server of the given name in DNS.
func (a *Authority) ServingName(t testing.TB, name string) dynamiccertificates.CertKeyContentProvider {
	t.Helper()
	return a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, DNSNames: []string{name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	})
}

// ClientCert issues a certificate for a client of the given name.
func (a *Authority) ClientCert(t testing.TB, name string) dynamiccertificates.CertKeyContentProvider {
	t.Helper()
	return a.issue(t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Sign issues the client certificate that is asked for, PEM.
func (a *Authority) Sign(request *x509.CertificateRequest, notBefore, notAfter time.Time) ([]byte, error) {
	return a.ca.Sign(&x509.Certificate{Subject: request.Subject, NotBefore: notBefore, NotAfter: notAfter,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, request.PublicKey)
}

func (a *Authority) issue(t testing.TB, template *x509.Certificate) dynamiccertificates.CertKeyContentProvider {
	t.Helper()
	cert, key := a.ca.Issue(t, template)
	pair, err := dynamiccertificates.NewStaticCertKeyContent("test", cert, key)
	if err != nil {
		t.Fatal(err)
	}
	return pair
}
