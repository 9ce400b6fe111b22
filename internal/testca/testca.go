// Package testca makes certificate authorities for tests: each lives as long as its test, in memory.
package testca

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"testing"
	"time"
)

// Authority is one that nobody but its test trusts.
type Authority struct {
	Cert *x509.Certificate
	// PEM is the certificate as clients are given it.
	PEM []byte
	key *ecdsa.PrivateKey
}

// New makes an authority that is valid from an hour ago until in a day.
func New(t testing.TB, name string) *Authority {
	t.Helper()
	return NewBetween(t, name, time.Now().Add(-time.Hour), time.Now().Add(24*time.Hour))
}

// NewBetween makes an authority that is valid between two times.
func NewBetween(t testing.TB, name string, from, to time.Time) *Authority {
	t.Helper()
	a := &Authority{key: NewKey(t)}
	a.Cert = &x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotBefore: from, NotAfter: to,
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}
	a.PEM = a.MustSign(t, a.Cert, a.key.Public())
	block, _ := pem.Decode(a.PEM)
	var err error
	if a.Cert, err = x509.ParseCertificate(block.Bytes); err != nil {
		t.Fatal(err)
	}
	return a
}

// Sign returns a certificate for the key, in PEM. What template leaves out is filled in: a serial number, an hour before and
// after now, and that it is for signatures.
func (a *Authority) Sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	c := *template
	if c.SerialNumber == nil {
		serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 64))
		if err != nil {
			return nil, err
		}
		c.SerialNumber = serial.Add(serial, big.NewInt(1)) // zero is none
	}
	if c.NotBefore.IsZero() {
		c.NotBefore = time.Now().Add(-time.Hour)
	}
	if c.NotAfter.IsZero() {
		c.NotAfter = time.Now().Add(time.Hour)
	}
	if c.KeyUsage == 0 {
		c.KeyUsage = x509.KeyUsageDigitalSignature
	}
	der, err := x509.CreateCertificate(rand.Reader, &c, a.Cert, public, a.key)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

// MustSign is Sign for a test's own goroutine.
func (a *Authority) MustSign(t testing.TB, template *x509.Certificate, public crypto.PublicKey) []byte {
	t.Helper()
	cert, err := a.Sign(template, public)
	if err != nil {
		t.Fatal(err)
	}
	return cert
}

// Issue returns a certificate for a new key, and the key, in PEM.
func (a *Authority) Issue(t testing.TB, template *x509.Certificate) (cert, key []byte) {
	t.Helper()
	k := NewKey(t)
	return a.MustSign(t, template, k.Public()), EncodeKey(t, k)
}

// EncodeKey returns a key in PEM.
func EncodeKey(t testing.TB, key *ecdsa.PrivateKey) []byte {
	t.Helper()
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der})
}

// NewKey makes a key of the sort that everything here has: ECDSA, P-256.
func NewKey(t testing.TB) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// NewRequest returns a request for a certificate for a new key, in DER.
func NewRequest(t testing.TB, template *x509.CertificateRequest) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, template, NewKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return der
}
