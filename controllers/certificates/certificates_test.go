package certificates

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/pem"
	"testing"
	"time"

	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/testca"
	"github.com/peapod/peapod/test/controltest"
)

// machine is a node with an address, ready or not.
func machine(name, ip string, ready corev1.ConditionStatus) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{
		Addresses:  []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: ip}},
		Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}}}
}

// decision runs the approver on one request, and returns the condition that it gave it ("" if none), and what it asked.
func decision(t *testing.T, request *csr, allow bool, nodes ...*corev1.Node) (kind certificatesv1.RequestConditionType, reason, review string) {
	t.Helper()
	objs := []runtime.Object{request, &corev1.Service{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "kubernetes"},
		Spec: corev1.ServiceSpec{ClusterIPs: []string{"10.96.0.1"}}}}
	for _, n := range nodes {
		objs = append(objs, n)
	}
	client := fake.NewClientset(objs...)
	client.PrependReactor("create", "subjectaccessreviews", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*authorizationv1.SubjectAccessReview)
		review = r.Spec.User + " " + r.Spec.ResourceAttributes.Verb + " " + r.Spec.ResourceAttributes.Resource + "/" + r.Spec.ResourceAttributes.Subresource
		r = r.DeepCopy()
		r.Status.Allowed = allow
		return true, r, nil
	})
	factory := informers.NewSharedInformerFactory(client, 0)
	a := &approver{engine.Deps{Client: client}, factory.Certificates().V1().CertificateSigningRequests().Lister(),
		factory.Core().V1().Nodes().Lister(), factory.Core().V1().Services().Lister()}
	ctx, cancel := context.WithCancel(t.Context())
	defer factory.Shutdown()
	defer cancel()
	factory.StartWithContext(ctx)
	factory.WaitForCacheSync(ctx.Done())
	if err := a.sync(ctx, cache.ObjectName{Name: request.Name}); err != nil {
		t.Fatal(err)
	}
	got, err := client.CertificatesV1().CertificateSigningRequests().Get(ctx, request.Name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(got.Status.Conditions); n > 0 {
		kind, reason = got.Status.Conditions[n-1].Type, got.Status.Conditions[n-1].Reason
	}
	return kind, reason, review
}

func TestApproval(t *testing.T) {
	const approved, denied = certificatesv1.CertificateApproved, certificatesv1.CertificateDenied
	const node = "system:node:n1"
	join := func() *csr {
		return asked(t, "system:bootstrap:abcdef", kubeletSigner, node, "system:nodes", forClients, nil)
	}
	serve := func(change func(*x509.CertificateRequest)) *csr {
		return asked(t, node, servingSigner, node, "system:nodes", forServers, change)
	}
	here, there := machine("n1", "10.0.0.1", corev1.ConditionFalse), machine("n2", "10.0.0.2", corev1.ConditionTrue)
	name := func(n string) func(*x509.CertificateRequest) {
		return func(r *x509.CertificateRequest) { r.DNSNames = []string{n} }
	}
	// poses is a machine that has joined under a name which is somebody else's.
	poses := func(n string) *csr {
		return asked(t, "system:node:"+n, servingSigner, "system:node:"+n, "system:nodes", forServers, name(n))
	}
	const asClient, asSelf = " create certificatesigningrequests/nodeclient", " create certificatesigningrequests/selfnodeclient"
	for _, c := range []struct {
		name    string
		request *csr
		allow   bool
		nodes   []*corev1.Node
		kind    certificatesv1.RequestConditionType
		reason  string
		review  string
	}{
		{"a machine joins", join(), true, nil, approved, "AutoApproved", "system:bootstrap:abcdef" + asClient},
		{"who may not", join(), false, nil, "", "", "system:bootstrap:abcdef" + asClient},
		{"under a name that is free again", join(), true, []*corev1.Node{here}, approved, "AutoApproved", "system:bootstrap:abcdef" + asClient},
		{"under the name of a node that is ready", join(), true, []*corev1.Node{machine("n1", "10.0.0.1", corev1.ConditionTrue)}, denied, "NodeExists", ""},
		{"a node renews", asked(t, node, kubeletSigner, node, "system:nodes", forClients, nil), true, []*corev1.Node{machine("n1", "10.0.0.1", corev1.ConditionTrue)}, approved, "AutoApproved", node + asSelf},
		{"the proxy of a node", asked(t, node, clientSigner, "system:kube-proxy", "", forClients, nil), true, nil, approved, "AutoApproved", node + asSelf},
		{"a kubelet serves", serve(address("10.0.0.1")), true, []*corev1.Node{here, there}, approved, "AutoApproved", node + asSelf},
		{"under its name", serve(name("n1")), true, []*corev1.Node{here}, approved, "AutoApproved", node + asSelf},
		{"under another name", serve(name("n2")), true, []*corev1.Node{here}, "", "", ""},
		{"at an address that it has not registered", serve(address("10.0.0.3")), true, []*corev1.Node{here}, "", "", ""},
		{"at another node's address", serve(address("10.0.0.1", "10.0.0.2")), true, []*corev1.Node{here, there}, "", "", ""},
		{"at an address that two have", serve(address("10.0.0.1")), true, []*corev1.Node{here, machine("n2", "10.0.0.1", corev1.ConditionTrue)}, "", "", ""},
		{"at the API's address", serve(address("10.96.0.1")), true, []*corev1.Node{machine("n1", "10.96.0.1", corev1.ConditionTrue)}, "", "", ""},
		{"at the machine's own", serve(address("127.0.0.1")), true, []*corev1.Node{machine("n1", "127.0.0.1", corev1.ConditionTrue)}, "", "", ""},
		{"under the API's name", poses("kubernetes.default.svc"), true, []*corev1.Node{machine("kubernetes.default.svc", "10.0.0.1", corev1.ConditionTrue)}, "", "", ""},
		{"under the API's short name", poses("kubernetes"), true, []*corev1.Node{machine("kubernetes", "10.0.0.1", corev1.ConditionTrue)}, "", "", ""},
		{"under a Service's name", poses("a.b.svc.cluster.local"), true, []*corev1.Node{machine("a.b.svc.cluster.local", "10.0.0.1", corev1.ConditionTrue)}, "", "", ""},
		{"under every machine's name", poses("localhost"), true, []*corev1.Node{machine("localhost", "10.0.0.1", corev1.ConditionTrue)}, "", "", ""},
		{"somebody else", asked(t, "someone", clientSigner, "jane", "", forClients, nil), true, nil, "", "", ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			kind, reason, review := decision(t, c.request, c.allow, c.nodes...)
			if kind != c.kind || reason != c.reason || review != c.review {
				t.Errorf("decided %q for %q after asking %q\nwant %q for %q after asking %q", kind, reason, review, c.kind, c.reason, c.review)
			}
		})
	}
}

// signing is an authority that says which it is in what it signs.
func signing(t *testing.T, name string) func(*x509.Certificate, crypto.PublicKey) ([]byte, error) {
	t.Helper()
	return testca.New(t, name).Sign
}

func TestSigning(t *testing.T) {
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		d.SignClient, d.SignServing = signing(t, "clients"), signing(t, "servers")
		return NewSigner(d)
	})
	w.Watch(t, w.Informers.Certificates().V1().CertificateSigningRequests().Informer())
	requests := w.Client.CertificatesV1().CertificateSigningRequests()
	create := func(name string, c *csr, decide certificatesv1.RequestConditionType) {
		t.Helper()
		c.Name, c.Spec.Username, c.Spec.Groups = name, "", nil
		c, err := requests.Create(t.Context(), c, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if decide != "" {
			c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: decide, Status: corev1.ConditionTrue, Reason: "Test"}}
			if _, err := requests.UpdateApproval(t.Context(), name, c, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
		}
	}
	get := func(name string) *csr {
		c, err := requests.Get(t.Context(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	const yes = certificatesv1.CertificateApproved
	jane := func() *csr { return asked(t, "", clientSigner, "jane", "developers", forClients, nil) }
	create("open", jane(), "")
	create("denied", jane(), certificatesv1.CertificateDenied)
	create("foreign", asked(t, "", "example.com/signer", "jane", "", forClients, nil), yes)
	create("bad", asked(t, "", kubeletSigner, "jane", "system:nodes", forClients, nil), yes)
	create("jane", jane(), yes)
	create("server", asked(t, "", servingSigner, "system:node:n", "system:nodes", forServers, address("10.0.0.1")), yes)
	for name, issuer := range map[string]string{"jane": "clients", "server": "servers"} {
		var c *csr
		w.Await(t, name+" is signed", func() bool { c = get(name); return len(c.Status.Certificate) > 0 })
		block, _ := pem.Decode(c.Status.Certificate)
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if r, err := parse(c); err != nil || cert.Issuer.CommonName != issuer || cert.Subject.CommonName != r.Subject.CommonName ||
			!cert.PublicKey.(*ecdsa.PublicKey).Equal(r.PublicKey) {
			t.Errorf("%s got a certificate of %s for %s (%v)", name, cert.Issuer.CommonName, cert.Subject.CommonName, err)
		}
	}
	w.Await(t, "bad has failed", func() bool { return has(get("bad"), certificatesv1.CertificateFailed) })
	if c := get("bad").Status.Conditions[1]; c.Reason != "SignerValidationFailure" || c.Message != "subject common name does not begin with system:node: " {
		t.Errorf("failed with %s: %s", c.Reason, c.Message)
	}
	// The one worker has come past these by now.
	for _, name := range []string{"open", "denied", "foreign"} {
		if c := get(name); len(c.Status.Certificate) > 0 || has(c, certificatesv1.CertificateFailed) {
			t.Errorf("%s was touched: %+v", name, c.Status)
		}
	}
}

func TestCleaner(t *testing.T) {
	w := controltest.Start(t, NewCleaner)
	w.Watch(t, w.Informers.Certificates().V1().CertificateSigningRequests().Informer())
	requests := w.Client.CertificatesV1().CertificateSigningRequests()
	// The one worker comes to the old one last.
	for _, made := range []struct {
		name string
		ago  time.Duration
	}{{"new", 0}, {"old", 2 * time.Hour}} {
		name, ago := made.name, made.ago
		c := asked(t, "", clientSigner, "jane", "", forClients, nil)
		c.Name = name
		c, err := requests.Create(t.Context(), c, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateDenied,
			Status: corev1.ConditionTrue, Reason: "Test", LastUpdateTime: metav1.NewTime(time.Now().Add(-ago))}}
		if _, err := requests.UpdateApproval(t.Context(), name, c, metav1.UpdateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	w.Await(t, "the old request is gone", func() bool {
		_, err := requests.Get(t.Context(), "old", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if _, err := requests.Get(t.Context(), "new", metav1.GetOptions{}); err != nil {
		t.Errorf("the new request: %v", err)
	}
}
