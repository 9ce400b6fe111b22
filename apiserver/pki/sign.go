package pki

import (
	"crypto"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"errors"
	"fmt"
	"time"
)

// Sign signs a certificate that somebody asked for, and returns it in PEM. template says who it is for, what it may be
// used for and until when; it never outlives the authority and is never one itself. The serial number is chosen here.
func (a *Authority) Sign(template *x509.Certificate, public crypto.PublicKey) ([]byte, error) {
	if template.NotBefore.IsZero() {
		t := *template
		t.NotBefore, template = time.Now().UTC().Add(-backdate), &t
	}
	cert, err := a.sign(template, public)
	if err != nil {
		return nil, err
	}
	return encodeCertificate(cert), nil
}

func (a *Authority) sign(template *x509.Certificate, public crypto.PublicKey) (*x509.Certificate, error) {
	serial, err := newSerial()
	if err != nil {
		return nil, err
	}
	ca, t := a.current(), *template
	t.SerialNumber, t.IsCA, t.BasicConstraintsValid = serial, false, true
	if t.NotAfter.After(ca.NotAfter) {
		t.NotAfter = ca.NotAfter
	}
	der, err := x509.CreateCertificate(rand.Reader, &t, ca, public, a.key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate of %s: %w", t.Subject.CommonName, err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("parse own certificate of %s: %w", t.Subject.CommonName, err)
	}
	return cert, nil
}

// Pin returns the SHA-256 of the authority's public key, in hexadecimal digits. It stays the same when the authority's
// certificate is renewed.
func (a *Authority) Pin() string { return PinOf(a.current()) }

// PinOf returns the SHA-256 of a certificate's public key, in hexadecimal digits.
func PinOf(c *x509.Certificate) string {
	sum := sha256.Sum256(c.RawSubjectPublicKeyInfo)
	return hex.EncodeToString(sum[:])
}

// FindPinned returns the authority of that pin among the certificates that a server showed, its own first, after checking
// that it signed the server's for that host.
func FindPinned(shown []*x509.Certificate, pin, host string) (caPEM []byte, err error) {
	if len(shown) == 0 {
		return nil, errors.New("the server shows no certificate")
	}
	for _, c := range shown {
		if !c.IsCA || PinOf(c) != pin {
			continue
		}
		roots := x509.NewCertPool()
		roots.AddCert(c)
		_, err := shown[0].Verify(x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}})
		if err != nil {
			return nil, fmt.Errorf("verify the server's certificate: %w", err)
		}
		return encodeCertificate(c), nil
	}
	return nil, errors.New("the server's certificate is not from the authority that the token names: this is another cluster, or somebody in between")
}
