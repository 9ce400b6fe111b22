package admission_test

import (
	"context"
	"crypto/x509"
	"crypto/x509/pkix"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/peapod/peapod/api"
	"github.com/peapod/peapod/apiserver"
	"github.com/peapod/peapod/apiserver/admission"
	"github.com/peapod/peapod/apiserver/admission/configuration"
	"github.com/peapod/peapod/apiserver/admission/priority"
	"github.com/peapod/peapod/apiserver/authn"
	"github.com/peapod/peapod/apiserver/authn/issuers"
	"github.com/peapod/peapod/apiserver/authz"
	"github.com/peapod/peapod/apiserver/authz/bootstrap"
	"github.com/peapod/peapod/apiserver/authz/structured"
	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/apiserver/servertest"
	"github.com/peapod/peapod/internal/testca"
)

// cluster is a real server with the real access control: certificates, tokens, roles and admission.
type cluster struct {
	*servertest.Server
	pki    *pki.PKI
	issuer *authn.Issuer
	// system is a client of system:masters.
	system kubernetes.Interface
	// stop ends the server and what it was made with.
	stop func()
}

func start(t *testing.T) *cluster {
	t.Helper()
	return startOn(t, vfs.NewMem())
}

// startOn runs a server whose store is on fs.
func startOn(t *testing.T, fs vfs.FS) *cluster {
	t.Helper()
	return startWith(t, fs, setup{})
}

// setup is what users set of who is believed, who may do what, and what admission does.
type setup struct {
	trust       issuers.Trust
	authorizers *structured.File
	plugins     configuration.Configuration
}

// startWith runs one that is set up so.
func startWith(t *testing.T, fs vfs.FS, set setup) *cluster {
	t.Helper()
	c := &cluster{}
	var err error
	if c.pki, err = pki.Open(pki.Config{Dir: t.TempDir(), NodeName: "n1", IPs: []net.IP{net.IPv4(10, 96, 0, 1)}}); err != nil {
		t.Fatal(err)
	}
	if c.issuer, err = authn.NewIssuer(authn.IssuerConfig{Keys: c.pki.TokenKeys()}); err != nil {
		t.Fatal(err)
	}
	informing, stop := context.WithCancel(context.Background())
	var stopped func()
	var shown informers.SharedInformerFactory
	c.Server = servertest.New(t, fs, func(cfg *apiserver.Config) {
		system := cfg.InProcess.Config(&user.DefaultInfo{Name: user.APIServerUser, Groups: []string{user.SystemPrivilegedGroup}})
		if c.system, err = kubernetes.NewForConfig(system); err != nil {
			t.Fatal(err)
		}
		free, err := dynamic.NewForConfig(system)
		if err != nil {
			t.Fatal(err)
		}
		factory := informers.NewSharedInformerFactory(c.system, 0)
		who := authn.Config{InProcess: cfg.InProcess.Authenticator(), ClientCA: c.pki.ClientCA(), Issuer: c.issuer, Informers: factory, Client: c.system,
			Others: set.trust.Tokens, Anonymous: set.trust.Anonymous}
		authenticator, err := authn.New(who)
		if err != nil {
			t.Fatal(err)
		}
		served := map[schema.GroupResource]bool{}
		for _, d := range api.All() {
			served[d.Resource()] = true
		}
		authorizer, err := authz.New(authz.Config{Informers: factory, Client: c.system, Served: func(gr schema.GroupResource) bool { return served[gr] }, File: set.authorizers})
		if err != nil {
			t.Fatal(err)
		}
		cfg.Admission, err = admission.New(admission.Config{Client: c.system, Dynamic: free, Informers: factory, Authorizer: authorizer, RBAC: authorizer.RBAC(),
			Configuration: set.plugins, Ended: informing.Done()})
		if err != nil {
			t.Fatal(err)
		}
		cfg.ServingCert, cfg.ClientCA = c.pki.APIServer(), c.pki.ClientCA()
		cfg.Authenticator, cfg.Audiences = authenticator.Request(), c.issuer.DefaultAudiences()
		cfg.Authorizer, cfg.Rules = authorizer, authorizer
		cfg.Tokens, cfg.Handlers = c.issuer, c.issuer.Handlers()
		factory.StartWithContext(informing)
		stopped, shown = factory.Shutdown, factory
	})
	c.stop = sync.OnceFunc(func() { c.Server.Stop(); stop(); stopped() })
	t.Cleanup(c.stop)
	<-c.Ready()
	ctx := context.Background()
	if err := bootstrap.Reconcile(ctx, c.system); err != nil {
		t.Fatal(err)
	}
	if err := bootstrap.Await(ctx, shown); err != nil {
		t.Fatal(err)
	}
	if err := priority.EnsureSystemClasses(ctx, c.system); err != nil {
		t.Fatal(err)
	}
	for _, ns := range []string{"default", "kube-node-lease"} {
		_, err := c.system.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: ns}}, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"default", "builder"} {
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name}}
		if _, err := c.system.CoreV1().ServiceAccounts("default").Create(ctx, account, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			t.Fatal(err)
		}
	}
	return c
}

// config is what a client over the network is made from, with no credential.
func (c *cluster) config() *rest.Config {
	return &rest.Config{Host: c.URL, QPS: -1, Timeout: time.Minute,
		TLSClientConfig: rest.TLSClientConfig{CAData: c.pki.ServerCA().CurrentCABundleContent()}}
}

func client(t *testing.T, cfg *rest.Config) kubernetes.Interface {
	t.Helper()
	k, err := kubernetes.NewForConfig(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return k
}

// as returns a client that shows a certificate of that user.
func (c *cluster) as(t *testing.T, name string, groups ...string) kubernetes.Interface {
	t.Helper()
	return client(t, c.showing(t, name, groups...))
}

// showing is what a client that shows a certificate of that user is made from.
func (c *cluster) showing(t *testing.T, name string, groups ...string) *rest.Config {
	t.Helper()
	key := testca.NewKey(t)
	cert, err := c.pki.ClientCA().Sign(&x509.Certificate{Subject: pkix.Name{CommonName: name, Organization: groups}, NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}, key.Public())
	if err != nil {
		t.Fatal(err)
	}
	cfg := c.config()
	cfg.CertData, cfg.KeyData = cert, testca.EncodeKey(t, key)
	return cfg
}

// node returns the client of a kubelet.
func (c *cluster) node(t *testing.T, name string) kubernetes.Interface {
	t.Helper()
	return c.as(t, "system:node:"+name, "system:nodes")
}

// bearing returns a client that bears a token.
func (c *cluster) bearing(t *testing.T, token string) kubernetes.Interface {
	t.Helper()
	cfg := c.config()
	cfg.BearerToken = token
	return client(t, cfg)
}

// pod makes a Pod on a node, or on none.
func (c *cluster) pod(t *testing.T, name, node string, change func(*corev1.Pod)) *corev1.Pod {
	t.Helper()
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default"},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Image: "i"}}}}
	if change != nil {
		change(p)
	}
	made, err := c.system.CoreV1().Pods("default").Create(context.Background(), p, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return made
}
