package authn

import (
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net/http"
	"testing"
	"time"

	testingclock "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/internal/testca"
)

// authority signs certificates in tests.
type authority struct {
	*testca.Authority
	t *testing.T
}

func newAuthority(t *testing.T, now time.Time) authority {
	return authority{testca.NewBetween(t, "authority", now, now.Add(24*time.Hour)), t}
}

func (a authority) client(name string, from, to time.Time) *x509.Certificate {
	a.t.Helper()
	block, _ := pem.Decode(a.MustSign(a.t, &x509.Certificate{
		Subject: pkix.Name{CommonName: name, Organization: []string{"readers"}}, NotBefore: from, NotAfter: to,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, testca.NewKey(a.t).Public()))
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert
}

func (a authority) options() x509.VerifyOptions {
	pool := x509.NewCertPool()
	pool.AddCert(a.Cert)
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
