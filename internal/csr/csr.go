// Package csr reads the request that a CertificateSigningRequest carries.
package csr

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
)

// Parse reads spec.request: a PKCS#10 request in PEM. Its signature is not checked.
func Parse(request []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}
