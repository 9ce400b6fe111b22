package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"slices"
	"sync/atomic"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// wanted describes a certificate: who it is for, and who signs it.
type wanted struct {
	name       string
	ca         *Authority
	commonName string
	groups     []string
	usage      x509.ExtKeyUsage
	names      []string
	ips        []net.IP
	// chain says that the authority's certificate is shown with it. Who knows the authority's key by its hash alone, as a
	// machine that joins does, needs it.
	chain bool
}

// Certificate is a certificate with its key, renewed in place.
type Certificate struct {
	listeners
	want wanted
	path string
	now  atomic.Pointer[pair]
}

// pair is one certificate with its key.
type pair struct {
	leaf            *x509.Certificate
	certPEM, keyPEM []byte
	tls             *tls.Certificate
}

var _ dynamiccertificates.CertKeyContentProvider = &Certificate{}

// Name identifies the provider in logs.
func (c *Certificate) Name() string { return c.want.name }

// CurrentCertKeyContent returns certificate and key, PEM.
func (c *Certificate) CurrentCertKeyContent() (certPEM, keyPEM []byte) {
	p := c.now.Load()
	if c.want.chain {
		return slices.Concat(p.certPEM, c.want.ca.CurrentCABundleContent()), p.keyPEM
	}
	return p.certPEM, p.keyPEM
}

// Leaf returns the current certificate, which the caller must not change.
func (c *Certificate) Leaf() *x509.Certificate { return c.now.Load().leaf }

// TLS returns the current certificate as crypto/tls wants it: the thing to return from tls.Config.GetCertificate and
// GetClientCertificate.
func (c *Certificate) TLS() *tls.Certificate { return c.now.Load().tls }

func (c *Certificate) due() time.Time { return renewalTime(c.Leaf()) }

func (c *Certificate) set(p *pair) {
	c.now.Store(p)
	c.notify()
}

// openCertificate reads the certificate, or issues it: also where it is due, names other hosts, or is signed by an
// authority that is no more.
func (p *PKI) openCertificate(w wanted) (*Certificate, error) {
	c := &Certificate{want: w, path: p.path(w.name)}
	content, err := readFile(c.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return c, p.renewCertificate(c)
	case err != nil:
		return nil, fmt.Errorf("read certificate: %w", err)
	}
	leaf, key, err := decodePair(content)
	if err != nil {
		return nil, &CorruptError{Path: c.path, Err: err, Remedy: "remove it, and a new one is issued at the next start"}
	}
	pr, err := newPair(leaf, key)
	if err != nil {
		return nil, err
	}
	if w.fits(leaf) && renewalTime(leaf).After(p.cfg.Clock.Now()) {
		c.set(pr)
		return c, nil
	}
	return c, p.renewCertificate(c)
}

// fits says whether cert is what w describes, signed by w's authority.
func (w wanted) fits(cert *x509.Certificate) bool {
	if cert.CheckSignatureFrom(w.ca.current()) != nil || cert.Subject.CommonName != w.commonName ||
		!slices.Equal(cert.Subject.Organization, w.groups) || !slices.Equal(cert.DNSNames, w.names) ||
		!slices.Equal(cert.ExtKeyUsage, []x509.ExtKeyUsage{w.usage}) {
		return false
	}
	return slices.EqualFunc(cert.IPAddresses, w.ips, net.IP.Equal)
}

func (p *PKI) renewCertificate(c *Certificate) error {
	pr, err := p.issue(c.want, p.cfg.Life)
	if err != nil {
		return err
	}
	if err := writeFile(c.path, append(slices.Clip(pr.certPEM), pr.keyPEM...)); err != nil {
		return fmt.Errorf("store certificate: %w", err)
	}
	c.set(pr)
	return nil
}

// issue signs a certificate with a new key. It never outlives its authority.
func (p *PKI) issue(w wanted, life time.Duration) (*pair, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("generate key of %s: %w", w.name, err)
	}
	now := p.cfg.Clock.Now().UTC()
	leaf, err := w.ca.sign(&x509.Certificate{
		Subject:   pkix.Name{CommonName: w.commonName, Organization: w.groups},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{w.usage},
		DNSNames: w.names, IPAddresses: w.ips,
	}, key.Public())
	if err != nil {
		return nil, err
	}
	return newPair(leaf, key)
}

func newPair(leaf *x509.Certificate, key *ecdsa.PrivateKey) (*pair, error) {
	keyPEM, err := encodeKey(key)
	if err != nil {
		return nil, err
	}
	return &pair{leaf: leaf, certPEM: encodeCertificate(leaf), keyPEM: keyPEM,
		tls: &tls.Certificate{Certificate: [][]byte{leaf.Raw}, PrivateKey: key, Leaf: leaf}}, nil
}
