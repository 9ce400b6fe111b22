package certificates

import (
	"cmp"
	"context"
	"crypto"
	"crypto/x509"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// DefaultSigningDuration is how long certificates are valid where the request names no time, and at most, unless
// Deps.SigningDuration says otherwise.
const DefaultSigningDuration = 365 * 24 * time.Hour

// NewSigner returns the controller that signs approved requests to Kubernetes' own signers.
func NewSigner(d engine.Deps) (engine.Runner, error) {
	requests := d.Informers.Certificates().V1().CertificateSigningRequests()
	lister := requests.Lister()
	loop := &engine.Loop{Name: "csr-signer"}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		c, err := lister.Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read certificate request %s: %w", key.Name, err)
		}
		return signOne(ctx, d, c)
	}
	synced, err := requests.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	return loop, nil
}

func signOne(ctx context.Context, d engine.Deps, c *csr) error {
	if !has(c, certificatesv1.CertificateApproved) || has(c, certificatesv1.CertificateDenied) ||
		has(c, certificatesv1.CertificateFailed) || len(c.Status.Certificate) > 0 {
		return nil
	}
	var sign func(*x509.Certificate, crypto.PublicKey) ([]byte, error)
	switch c.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeAPIServerClientSignerName:
		sign = d.SignClient
	case certificatesv1.KubeletServingSignerName:
		sign = d.SignServing
	}
	if sign == nil {
		return nil // somebody else's signer
	}
	c = c.DeepCopy()
	r, err := parse(c)
	if err == nil {
		err = check(c, r)
	}
	if err != nil {
		c.Status.Conditions = append(c.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
			Type: certificatesv1.CertificateFailed, Status: corev1.ConditionTrue, Reason: "SignerValidationFailure", Message: err.Error()})
	} else if c.Status.Certificate, err = sign(template(c, r, time.Now(), cmp.Or(d.SigningDuration, DefaultSigningDuration)), r.PublicKey); err != nil {
		return fmt.Errorf("sign certificate request %s: %w", c.Name, err)
	}
	_, err = d.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, c, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return fmt.Errorf("store certificate of request %s: %w", c.Name, err)
	}
	return nil
}

// keyUsages and extendedUsages are the API's names of what a certificate may be used for.
var (
	keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
		certificatesv1.UsageSigning: x509.KeyUsageDigitalSignature, certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
		certificatesv1.UsageContentCommitment: x509.KeyUsageContentCommitment, certificatesv1.UsageKeyEncipherment: x509.KeyUsageKeyEncipherment,
		certificatesv1.UsageKeyAgreement: x509.KeyUsageKeyAgreement, certificatesv1.UsageDataEncipherment: x509.KeyUsageDataEncipherment,
		certificatesv1.UsageEncipherOnly: x509.KeyUsageEncipherOnly, certificatesv1.UsageDecipherOnly: x509.KeyUsageDecipherOnly,
	}
	extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
		certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth, certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
		certificatesv1.UsageCodeSigning: x509.ExtKeyUsageCodeSigning, certificatesv1.UsageEmailProtection: x509.ExtKeyUsageEmailProtection,
		certificatesv1.UsageSMIME: x509.ExtKeyUsageEmailProtection, certificatesv1.UsageTimestamping: x509.ExtKeyUsageTimeStamping,
		certificatesv1.UsageOCSPSigning: x509.ExtKeyUsageOCSPSigning, certificatesv1.UsageIPsecEndSystem: x509.ExtKeyUsageIPSECEndSystem,
		certificatesv1.UsageIPsecTunnel: x509.ExtKeyUsageIPSECTunnel, certificatesv1.UsageIPsecUser: x509.ExtKeyUsageIPSECUser,
	}
)

// template is the certificate that a request asks for, valid for life at most.
func template(c *csr, r *x509.CertificateRequest, now time.Time, life time.Duration) *x509.Certificate {
	if s := c.Spec.ExpirationSeconds; s != nil {
		life = min(life, time.Duration(*s)*time.Second)
	}
	t := &x509.Certificate{
		Subject: r.Subject, DNSNames: r.DNSNames, IPAddresses: r.IPAddresses, EmailAddresses: r.EmailAddresses, URIs: r.URIs,
		NotAfter: now.Add(life),
	}
	for _, u := range c.Spec.Usages {
		t.KeyUsage |= keyUsages[u]
		if e, ok := extendedUsages[u]; ok {
			t.ExtKeyUsage = append(t.ExtKeyUsage, e)
		}
	}
	return t
}
