package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"
)

// authority signs certificates in tests.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T, now time.Time) *authority {
	a := &authority{t: t}
	a.cert, a.key = a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: "authority"}, NotBefore: now, NotAfter: now.Add(24 * time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// issue signs a certificate; an authority's first is its own.
func (a *authority) issue(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key
}

func (a *authority) client(name string, from, to time.Time) *x509.Certificate {
	cert, _ := a.issue(&x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: []string{"readers"}}, NotBefore: from, NotAfter: to,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
	return cert
}

func (a *authority) options() x509.VerifyOptions {
	pool := x509.NewCertPool()
	pool.AddCert(a.cert)
	return x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

// What is remembered of a certificate ends with the certificate, and with the authority that vouched for it.
func TestRememberedCertificates(t *testing.T) {
	now := time.Now().Truncate(time.Second)
	clk := testingclock.NewFakePassiveClock(now)
	trusted, other := newAuthority(t, now.Add(-time.Hour)), newAuthority(t, now.Add(-time.Hour))
	current := trusted.options()
	c := newCertificates(func() (x509.VerifyOptions, bool) { return current, true }, clk)
	ask := func(cert *x509.Certificate) string {
		t.Helper()
		response, ok, err := c.AuthenticateRequest(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: []*x509.Certificate{cert}}})
		if ok != (err == nil) {
			t.Fatalf("accepted: %t, error: %v", ok, err)
		}
		if !ok {
			return ""
		}
		return response.User.GetName()
	}
	alice := trusted.client("alice", now.Add(-time.Minute), now.Add(time.Hour))
	bob := trusted.client("bob", now.Add(-time.Minute), now.Add(2*time.Hour))
	mallory := other.client("alice", now.Add(-time.Minute), now.Add(time.Hour))
	step := func(what string, cert *x509.Certificate, want string) {
		t.Helper()
		for range 2 { // as new and as known
			if got := ask(cert); got != want {
				t.Fatalf("%s: %q, want %q", what, got, want)
			}
		}
	}
	step("alice", alice, "alice")
	step("bob", bob, "bob")
	step("a stranger of the same name", mallory, "")
	if len(c.known) != 2 {
		t.Errorf("%d certificates are remembered, want the 2 accepted ones", len(c.known))
	}
	clk.SetTime(now.Add(time.Hour))
	step("alice, in the last second", alice, "alice")
	clk.SetTime(now.Add(time.Hour + time.Second))
	step("alice, too late", alice, "")
	step("bob", bob, "bob")
	current = other.options()
	step("bob, of an authority no longer trusted", bob, "")
	clk.SetTime(now)
	step("who was a stranger", mallory, "alice")
	if len(c.known) != 1 {
		t.Errorf("%d certificates are remembered, want those of the present authority alone", len(c.known))
	}
}
