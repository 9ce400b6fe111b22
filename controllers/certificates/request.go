// Package certificates approves and signs the certificates that nodes ask for, signs those that an administrator has
// approved, and clears away requests that are done.
//
// A node has three: one to be known by to the API server as itself, one as the proxy that routes packets on it, and one
// for its kubelet's server.
package certificates

import (
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apiserver/pkg/authentication/user"

	csrs "github.com/peapod/peapod/internal/csr"
)

// Name is that of the service account in kube-system as which the controllers act; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "certificate-controller"

type csr = certificatesv1.CertificateSigningRequest

const nodePrefix = "system:node:"

// sort says what a request is for.
type sort int

const (
	other       sort = iota // for an administrator to decide
	nodeClient              // a machine wants to be known as a node
	nodeRenewal             // a node wants its next certificate
	nodeProxy               // a node wants to be known as the proxy
	nodeServing             // a node's kubelet wants to serve
)

// parse reads the request within.
func parse(c *csr) (*x509.CertificateRequest, error) {
	r, err := csrs.Parse(c.Spec.Request)
	if err != nil {
		return nil, fmt.Errorf("parse certificate request: %w", err)
	}
	return r, nil
}

// sortOf says what a request is for. It is a pure function.
func sortOf(c *csr, r *x509.CertificateRequest) sort {
	fromNode := strings.HasPrefix(c.Spec.Username, nodePrefix) && slices.Contains(c.Spec.Groups, user.NodesGroup)
	switch c.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if checkNodeClient(c, r) != nil {
			return other
		}
		if fromNode && c.Spec.Username == r.Subject.CommonName {
			return nodeRenewal
		}
		return nodeClient
	case certificatesv1.KubeletServingSignerName:
		if fromNode && c.Spec.Username == r.Subject.CommonName && checkServing(c, r) == nil {
			return nodeServing
		}
	case certificatesv1.KubeAPIServerClientSignerName:
		if fromNode && r.Subject.CommonName == user.KubeProxy && len(r.Subject.Organization) == 0 && !hasNames(r) && clientUsages(c) {
			return nodeProxy
		}
	}
	return other
}

func hasNames(r *x509.CertificateRequest) bool {
	return len(r.DNSNames)+len(r.IPAddresses)+len(r.EmailAddresses)+len(r.URIs) > 0
}

func clientUsages(c *csr) bool { return usagesAre(c, certificatesv1.UsageClientAuth) }

// usagesAre says whether a request is for digital signatures and the given use, and maybe key encipherment.
func usagesAre(c *csr, use certificatesv1.KeyUsage) bool {
	for _, u := range c.Spec.Usages {
		if u != use && u != certificatesv1.UsageDigitalSignature && u != certificatesv1.UsageKeyEncipherment {
			return false
		}
	}
	return slices.Contains(c.Spec.Usages, use) && slices.Contains(c.Spec.Usages, certificatesv1.UsageDigitalSignature)
}

// check says why a request does not fit its signer: what is documented of Kubernetes' signers.
func check(c *csr, r *x509.CertificateRequest) error {
	switch c.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		return checkNodeClient(c, r)
	case certificatesv1.KubeletServingSignerName:
		return checkServing(c, r)
	case certificatesv1.KubeAPIServerClientSignerName:
		if slices.Contains(r.Subject.Organization, user.SystemPrivilegedGroup) {
			return errors.New("subject organization is system:masters")
		}
		for _, u := range c.Spec.Usages {
			if u == certificatesv1.UsageServerAuth || u == certificatesv1.UsageAny || u == certificatesv1.UsageCertSign {
				return fmt.Errorf("usage %q is not for clients", u)
			}
		}
	}
	return nil
}

func checkNode(r *x509.CertificateRequest) error {
	if !slices.Equal(r.Subject.Organization, []string{user.NodesGroup}) {
		return errors.New("subject organization is not system:nodes")
	}
	if !strings.HasPrefix(r.Subject.CommonName, nodePrefix) {
		return errors.New("subject common name does not begin with system:node: ")
	}
	return nil
}

func checkNodeClient(c *csr, r *x509.CertificateRequest) error {
	if err := checkNode(r); err != nil {
		return err
	}
	if hasNames(r) {
		return errors.New("subjectAltNames are not allowed")
	}
	if !clientUsages(c) {
		return errors.New("usages did not match [digital signature client auth]")
	}
	return nil
}

func checkServing(c *csr, r *x509.CertificateRequest) error {
	if err := checkNode(r); err != nil {
		return err
	}
	if len(r.DNSNames)+len(r.IPAddresses) == 0 || len(r.EmailAddresses)+len(r.URIs) > 0 {
		return errors.New("subjectAltNames must be DNS names or IP addresses")
	}
	if !usagesAre(c, certificatesv1.UsageServerAuth) {
		return errors.New("usages did not match [digital signature server auth]")
	}
	return nil
}

// has says whether a request has a condition.
func has(c *csr, t certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(c.Status.Conditions, func(x certificatesv1.CertificateSigningRequestCondition) bool { return x.Type == t })
}
