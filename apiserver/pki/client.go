package pki

import (
	"crypto/tls"
	"fmt"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// ClientCertificate returns what tls.Config.GetClientCertificate asks for the certificate that cert has when a connection is made.
func ClientCertificate(cert dynamiccertificates.CertKeyContentProvider) func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
	return func(*tls.CertificateRequestInfo) (*tls.Certificate, error) {
		pair, err := tls.X509KeyPair(cert.CurrentCertKeyContent())
		if err != nil {
			return nil, fmt.Errorf("load client certificate %s: %w", cert.Name(), err)
		}
		return &pair, nil
	}
}
