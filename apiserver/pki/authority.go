package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// Authority is a certificate authority. It is the provider of its bundle to whoever verifies what it signed.
type Authority struct {
	listeners
	name string
	path string
	key  *ecdsa.PrivateKey

	mu     sync.RWMutex
	cert   *x509.Certificate
	bundle []byte
	verify x509.VerifyOptions
}

var _ dynamiccertificates.CAContentProvider = &Authority{}

// Name identifies the provider in logs.
func (a *Authority) Name() string { return a.name }

// CurrentCABundleContent returns the certificate, PEM.
func (a *Authority) CurrentCABundleContent() []byte {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.bundle
}

// VerifyOptions returns what verifies client certificates that the authority signed.
func (a *Authority) VerifyOptions() (x509.VerifyOptions, bool) {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.verify, true
}

func (a *Authority) current() *x509.Certificate {
	a.mu.RLock()
	defer a.mu.RUnlock()
	return a.cert
}

func (a *Authority) due() time.Time { return renewalTime(a.current()) }

// set makes cert the current one.
func (a *Authority) set(cert *x509.Certificate) {
	pool := x509.NewCertPool()
	pool.AddCert(cert)
	a.mu.Lock()
	a.cert, a.bundle = cert, encodeCertificate(cert)
	a.verify = x509.VerifyOptions{Roots: pool, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
	a.mu.Unlock()
	a.notify()
}

// openAuthority reads the authority of that name, or makes it.
func (p *PKI) openAuthority(name, commonName string) (*Authority, error) {
	a := &Authority{name: name, path: p.path(name)}
	const remedy = "restore it from a backup; removing it has a new authority made, after which every certificate that the old one signed is worthless"
	content, err := readFile(a.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if a.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
			return nil, fmt.Errorf("generate key of %s: %w", name, err)
		}
		return a, p.issueAuthority(a, commonName)
	case err != nil:
		return nil, fmt.Errorf("read certificate authority: %w", err)
	}
	cert, key, err := decodePair(content)
	if err == nil && !cert.IsCA {
		err = errors.New("the certificate is not an authority's")
	}
	if err != nil {
		return nil, &CorruptError{Path: a.path, Err: err, Remedy: remedy}
	}
	a.key = key
	a.set(cert)
	if !a.due().After(p.cfg.Clock.Now()) {
		return a, p.renewAuthority(a)
	}
	return a, nil
}

// renewAuthority gives a a certificate of the same name and key.
func (p *PKI) renewAuthority(a *Authority) error {
	return p.issueAuthority(a, a.current().Subject.CommonName)
}

func (p *PKI) issueAuthority(a *Authority, commonName string) error {
	serial, err := newSerial()
	if err != nil {
		return err
	}
	public, err := x509.MarshalPKIXPublicKey(a.key.Public())
	if err != nil {
		return fmt.Errorf("encode public key of %s: %w", a.name, err)
	}
	id := sha256.Sum256(public)
	now := p.cfg.Clock.Now().UTC()
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: commonName},
		NotBefore: now.Add(-backdate), NotAfter: now.Add(p.cfg.CALife),
		IsCA: true, BasicConstraintsValid: true, SubjectKeyId: id[:20],
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign | x509.KeyUsageCRLSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, a.key.Public(), a.key)
	if err != nil {
		return fmt.Errorf("sign certificate of %s: %w", a.name, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return fmt.Errorf("parse own certificate of %s: %w", a.name, err)
	}
	keyPEM, err := encodeKey(a.key)
	if err != nil {
		return err
	}
	if err := writeFile(a.path, append(encodeCertificate(cert), keyPEM...)); err != nil {
		return fmt.Errorf("store certificate authority: %w", err)
	}
	a.set(cert)
	return nil
}

// backdate is how far before its making a certificate is valid, for machines whose clocks lag.
const backdate = 5 * time.Minute

// renewalTime is when two thirds of the certificate's life have passed.
func renewalTime(c *x509.Certificate) time.Time {
	return c.NotAfter.Add(-c.NotAfter.Sub(c.NotBefore) / 3)
}

func newSerial() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("choose serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}

// listeners are those told of a change.
type listeners struct {
	listenersMu sync.Mutex
	list        []dynamiccertificates.Listener
}

// AddListener has listener told of every change from now on.
func (l *listeners) AddListener(listener dynamiccertificates.Listener) {
	l.listenersMu.Lock()
	defer l.listenersMu.Unlock()
	l.list = append(l.list, listener)
}

func (l *listeners) notify() {
	l.listenersMu.Lock()
	list := append([]dynamiccertificates.Listener(nil), l.list...)
	l.listenersMu.Unlock()
	for _, listener := range list {
		listener.Enqueue()
	}
}
