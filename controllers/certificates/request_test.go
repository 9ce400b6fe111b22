package certificates

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"net/url"
	"slices"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/testca"
)

// Usages that nodes ask for.
var (
	forClients = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageClientAuth}
	forServers = []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth}
)

// asked is a request for a certificate for a subject, made by a user; change may be nil.
func asked(t *testing.T, by, signer, cn, org string, usages []certificatesv1.KeyUsage, change func(*x509.CertificateRequest)) *csr {
	t.Helper()
	r := &x509.CertificateRequest{Subject: pkix.Name{CommonName: cn}}
	if org != "" {
		r.Subject.Organization = []string{org}
	}
	if change != nil {
		change(r)
	}
	c := &csr{ObjectMeta: metav1.ObjectMeta{Name: "r"}, Spec: certificatesv1.CertificateSigningRequestSpec{
		Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: testca.NewRequest(t, r)}),
		SignerName: signer, Usages: usages, Username: by, Groups: []string{"system:authenticated"}}}
	if by != "someone" && by != "system:bootstrap:abcdef" {
		c.Spec.Groups = append(c.Spec.Groups, "system:nodes")
	}
	return c
}

const (
	clientSigner  = certificatesv1.KubeAPIServerClientSignerName
	kubeletSigner = certificatesv1.KubeAPIServerClientKubeletSignerName
	servingSigner = certificatesv1.KubeletServingSignerName
)

func address(ips ...string) func(*x509.CertificateRequest) {
	return func(r *x509.CertificateRequest) {
		for _, ip := range ips {
			r.IPAddresses = append(r.IPAddresses, net.ParseIP(ip))
		}
	}
}

func TestWhatARequestIsFor(t *testing.T) {
	const joining, node = "system:bootstrap:abcdef", "system:node:n1"
	mail := func(r *x509.CertificateRequest) { r.EmailAddresses = []string{"a@example.com"} }
	for _, c := range []struct {
		name                string
		by, signer, cn, org string
		usages              []certificatesv1.KeyUsage
		change              func(*x509.CertificateRequest)
		want                sort
	}{
		{"a machine joins", joining, kubeletSigner, node, "system:nodes", forClients, nil, nodeClient},
		{"a node renews", node, kubeletSigner, node, "system:nodes", forClients, nil, nodeRenewal},
		{"with key encipherment", node, kubeletSigner, node, "system:nodes", append(slices.Clone(forClients), certificatesv1.UsageKeyEncipherment), nil, nodeRenewal},
		{"a node wants to be another", "system:node:n2", kubeletSigner, node, "system:nodes", forClients, nil, nodeClient},
		{"one that only calls itself a node", "someone", kubeletSigner, node, "system:nodes", forClients, nil, nodeClient},
		{"as an administrator", joining, kubeletSigner, node, "system:masters", forClients, nil, other},
		{"not as a node", joining, kubeletSigner, "admin", "system:nodes", forClients, nil, other},
		{"with a name to serve under", joining, kubeletSigner, node, "system:nodes", forClients, address("10.0.0.1"), other},
		{"to serve, from the signer for clients", joining, kubeletSigner, node, "system:nodes", forServers, nil, other},
		{"a kubelet serves", node, servingSigner, node, "system:nodes", forServers, address("10.0.0.1"), nodeServing},
		{"to serve as another", "system:node:n2", servingSigner, node, "system:nodes", forServers, address("10.0.0.1"), other},
		{"to serve under no name", node, servingSigner, node, "system:nodes", forServers, nil, other},
		{"to serve mail", node, servingSigner, node, "system:nodes", forServers, mail, other},
		{"to serve and call", node, servingSigner, node, "system:nodes", append(slices.Clone(forServers), certificatesv1.UsageClientAuth), address("10.0.0.1"), other},
		{"the proxy", node, clientSigner, "system:kube-proxy", "", forClients, nil, nodeProxy},
		{"the proxy, by somebody", "someone", clientSigner, "system:kube-proxy", "", forClients, nil, other},
		{"the proxy, with a group", node, clientSigner, "system:kube-proxy", "system:masters", forClients, nil, other},
		{"somebody else", node, clientSigner, "admin", "", forClients, nil, other},
		{"another signer", node, "example.com/signer", node, "system:nodes", forClients, nil, other},
	} {
		request := asked(t, c.by, c.signer, c.cn, c.org, c.usages, c.change)
		r, err := parse(request)
		if err != nil {
			t.Fatal(err)
		}
		if got := sortOf(request, r); got != c.want {
			t.Errorf("%s: is for %d, want %d", c.name, got, c.want)
		}
	}
}

func TestWhatASignerRefuses(t *testing.T) {
	uri := func(r *x509.CertificateRequest) { r.URIs = []*url.URL{{Scheme: "spiffe", Host: "x"}} }
	for _, c := range []struct {
		name, signer, cn, org string
		usages                []certificatesv1.KeyUsage
		change                func(*x509.CertificateRequest)
		want                  string
	}{
		{"a client", clientSigner, "jane", "developers", forClients, nil, ""},
		{"an administrator", clientSigner, "jane", "system:masters", forClients, nil, "subject organization is system:masters"},
		{"a client that serves", clientSigner, "jane", "", forServers, nil, `usage "server auth" is not for clients`},
		{"a node", kubeletSigner, "system:node:n", "system:nodes", forClients, nil, ""},
		{"a node of no group", kubeletSigner, "system:node:n", "", forClients, nil, "subject organization is not system:nodes"},
		{"no node", kubeletSigner, "n", "system:nodes", forClients, nil, "subject common name does not begin with system:node: "},
		{"a node with names", kubeletSigner, "system:node:n", "system:nodes", forClients, uri, "subjectAltNames are not allowed"},
		{"a node that serves", kubeletSigner, "system:node:n", "system:nodes", forServers, nil, "usages did not match [digital signature client auth]"},
		{"a server", servingSigner, "system:node:n", "system:nodes", forServers, address("10.0.0.1"), ""},
		{"a server of nothing", servingSigner, "system:node:n", "system:nodes", forServers, nil, "subjectAltNames must be DNS names or IP addresses"},
		{"a server that calls", servingSigner, "system:node:n", "system:nodes", forClients, address("10.0.0.1"), "usages did not match [digital signature server auth]"},
	} {
		request := asked(t, "someone", c.signer, c.cn, c.org, c.usages, c.change)
		r, err := parse(request)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if err := check(request, r); err != nil {
			got = err.Error()
		}
		if got != c.want {
			t.Errorf("%s: refused with %q, want %q", c.name, got, c.want)
		}
	}
}

func TestParseRefusesWhatIsNoRequest(t *testing.T) {
	for _, text := range []string{"", "hello", "-----BEGIN CERTIFICATE REQUEST-----\naGVsbG8=\n-----END CERTIFICATE REQUEST-----\n"} {
		if _, err := parse(&csr{Spec: certificatesv1.CertificateSigningRequestSpec{Request: []byte(text)}}); err == nil {
			t.Errorf("%q was parsed", text)
		}
	}
}

func TestTemplate(t *testing.T) {
	now := time.Now()
	c := asked(t, "someone", servingSigner, "system:node:n", "system:nodes",
		[]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment, certificatesv1.UsageServerAuth}, address("10.0.0.1"))
	r, err := parse(c)
	if err != nil {
		t.Fatal(err)
	}
	got := template(c, r, now, DefaultSigningDuration)
	if got.Subject.CommonName != "system:node:n" || len(got.IPAddresses) != 1 || got.IsCA ||
		got.KeyUsage != x509.KeyUsageDigitalSignature|x509.KeyUsageKeyEncipherment || !slices.Equal(got.ExtKeyUsage, []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}) {
		t.Errorf("template is %+v", got)
	}
	for seconds, want := range map[int32]time.Duration{600: 10 * time.Minute, 1 << 30: time.Hour} {
		c.Spec.ExpirationSeconds = ptr.To(seconds)
		if got := template(c, r, now, time.Hour).NotAfter.Sub(now); got != want {
			t.Errorf("%d s were asked for: valid for %s, want %s", seconds, got, want)
		}
	}
}

func TestHowLongRequestsAreKept(t *testing.T) {
	made := time.Now().Truncate(time.Second)
	decided := metav1.NewTime(made.Add(10 * time.Minute))
	with := func(kind certificatesv1.RequestConditionType, certificate string) *csr {
		c := &csr{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(made)}}
		if kind != "" {
			c.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: kind, LastUpdateTime: decided}}
		}
		c.Status.Certificate = []byte(certificate)
		return c
	}
	for name, c := range map[string]struct {
		request *csr
		want    time.Duration
	}{
		"open": {with("", ""), 24 * time.Hour}, "denied": {with(certificatesv1.CertificateDenied, ""), 70 * time.Minute},
		"failed": {with(certificatesv1.CertificateFailed, ""), 70 * time.Minute}, "approved": {with(certificatesv1.CertificateApproved, ""), 24 * time.Hour},
		"signed": {with(certificatesv1.CertificateApproved, "x"), 70 * time.Minute},
	} {
		if got := end(c.request).Sub(made); got != c.want {
			t.Errorf("%s: kept for %s, want %s", name, got, c.want)
		}
	}
}
