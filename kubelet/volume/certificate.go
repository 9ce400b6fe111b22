package volume

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"slices"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/kubelet/pod"
)

const (
	// requestLife is for how long an answer is waited for; requests are deleted when they are as old.
	requestLife = 15 * time.Minute
	// maxRefreshJitter spreads the renewals of certificates that were issued together.
	maxRefreshJitter = 5 * time.Minute
	// leastUse is how long a certificate is used at least, whatever its issuer says and the clocks show.
	leastUse = time.Minute
)

// certificateKey names a podCertificate source of a Pod: one of a volume's sources.
type certificateKey struct {
	uid    types.UID
	volume string
	source int
}

// certificate is what a podCertificate source shows (KEP-4317), and the request for the next one. It is guarded by the
// Pod's lock. Neither outlives the process: the next one asks anew, and the Pod has its files until then.
type certificate struct {
	// key and chain are PEM; empty before the first was issued.
	key, chain []byte
	// refresh is when to look again; zero for never.
	refresh, notAfter time.Time
	request           *certificateRequest
	// refused is why there will be no other: a signer's no is final.
	refused error
}

type certificateRequest struct {
	ref  objectRef
	key  []byte // PEM
	made time.Time
}

// certificate returns what the source shows now. Where a first answer is awaited it is a *pod.RetryError. The caller holds
// pv.mu.
func (m *Manager) certificate(ctx context.Context, pv *podVolumes, key certificateKey, s *v1.PodCertificateProjection) (*certificate, error) {
	m.mu.Lock()
	c := m.certificates[key]
	if c == nil {
		c = &certificate{}
		m.certificates[key] = c
	}
	m.mu.Unlock()
	now := m.cfg.Clock.Now()
	if c.request != nil && now.Sub(c.request.made) >= requestLife {
		c.request = nil // nobody answers; it is deleted, or about to be
	}
	if c.refused != nil {
		return c.held(now, c.refused)
	}
	if c.request == nil {
		if len(c.chain) > 0 && now.Before(c.refresh) {
			return c, nil
		}
		request, err := m.requestCertificate(ctx, pv.pod, s, now)
		if err != nil {
			return nil, err
		}
		c.request = request
		m.follow(pv, append(slices.Clone(pv.refs), request.ref))
	}
	pending := &pod.RetryError{Err: fmt.Errorf("PodCertificateRequest %q of signer %q is not answered yet", c.request.ref.name, s.SignerName)}
	obj, changed, err := m.objects.get(ctx, c.request.ref)
	if pending.Ready = changed; err != nil {
		var missing *notFoundError
		var retry *pod.RetryError
		if !errors.As(err, &missing) || !errors.As(err, &retry) {
			return nil, err
		}
		pending.Ready = retry.Ready // the watch may have begun before it was made
	} else if done, err := c.answer(ctx, obj.(*certificatesv1.PodCertificateRequest), now); done {
		if err != nil {
			return c.held(now, err)
		}
		return c, nil
	}
	c.refresh = c.request.made.Add(requestLife)
	return c.held(now, pending)
}

// held returns what was issued before, as long as it is valid; otherwise err.
func (c *certificate) held(now time.Time, err error) (*certificate, error) {
	if len(c.chain) > 0 && now.Before(c.notAfter) {
		return c, nil
	}
	return nil, err
}

// answer takes in what became of the request, and says whether anything did.
func (c *certificate) answer(ctx context.Context, r *certificatesv1.PodCertificateRequest, now time.Time) (done bool, err error) {
	for _, condition := range r.Status.Conditions {
		switch condition.Type {
		case certificatesv1.PodCertificateRequestConditionTypeIssued:
			if r.Status.BeginRefreshAt == nil || r.Status.NotAfter == nil {
				return false, nil
			}
			c.key, c.chain = c.request.key, bareBlocks(r.Status.CertificateChain, map[string]bool{})
			c.notAfter = r.Status.NotAfter.Time
			c.refresh = r.Status.BeginRefreshAt.Time
			if spread := min(maxRefreshJitter, c.notAfter.Sub(c.refresh)/2); spread > 0 {
				c.refresh = c.refresh.Add(mathrand.N(spread))
			}
			if least := now.Add(leastUse); c.refresh.Before(least) {
				c.refresh = least
			}
			c.request = nil
			return true, nil
		case certificatesv1.PodCertificateRequestConditionTypeDenied, certificatesv1.PodCertificateRequestConditionTypeFailed:
			c.refused = fmt.Errorf("PodCertificateRequest %q of signer %q: %s: %s: %s", r.Name, r.Spec.SignerName, condition.Type, condition.Reason, condition.Message)
			c.request, c.refresh = nil, c.notAfter
			if len(c.chain) > 0 {
				klog.FromContext(ctx).Error(c.refused, "A Pod's certificate is not renewed", "pod", klog.KRef(r.Namespace, r.Spec.PodName), "notAfter", c.notAfter)
			}
			return true, c.refused
		}
	}
	return false, nil
}

// project writes the files that the source names.
func (c *certificate) project(s *v1.PodCertificateProjection, write func(path string, data []byte)) {
	if s.CredentialBundlePath != "" {
		write(s.CredentialBundlePath, slices.Concat(c.key, c.chain))
	}
	if s.KeyPath != "" {
		write(s.KeyPath, c.key)
	}
	if s.CertificateChainPath != "" {
		write(s.CertificateChainPath, c.chain)
	}
}

// requestCertificate asks the signer for a certificate of a new key.
func (m *Manager) requestCertificate(ctx context.Context, p *v1.Pod, s *v1.PodCertificateProjection, now time.Time) (*certificateRequest, error) {
	node, err := m.cfg.Node()
	if err != nil {
		return nil, err
	}
	account, err := m.cfg.Client.CoreV1().ServiceAccounts(p.Namespace).Get(ctx, p.Spec.ServiceAccountName, metav1.GetOptions{})
	if err != nil {
		return nil, fmt.Errorf("read service account %s to request a certificate: %w", p.Spec.ServiceAccountName, err)
	}
	key, err := newKey(s.KeyType)
	if err != nil {
		return nil, err
	}
	pkcs8, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key of type %s: %w", s.KeyType, err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{}, key)
	if err != nil {
		return nil, fmt.Errorf("make certificate request: %w", err)
	}
	r := &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "req-" + p.Name + "-", Namespace: p.Namespace,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID}}},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: s.SignerName, PodName: p.Name, PodUID: p.UID,
			ServiceAccountName: account.Name, ServiceAccountUID: account.UID, NodeName: types.NodeName(node.Name), NodeUID: node.UID,
			MaxExpirationSeconds: s.MaxExpirationSeconds, StubPKCS10Request: der, UnverifiedUserAnnotations: s.UserAnnotations,
		},
	}
	made, err := m.cfg.Client.CertificatesV1().PodCertificateRequests(p.Namespace).Create(ctx, r, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create PodCertificateRequest: %w", err)
	}
	return &certificateRequest{
		ref: objectRef{requestKind, made.Namespace, made.Name}, made: now,
		key: pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: pkcs8}),
	}, nil
}

func newKey(kind string) (crypto.Signer, error) {
	switch kind {
	case "RSA3072":
		return rsa.GenerateKey(rand.Reader, 3072)
	case "RSA4096":
		return rsa.GenerateKey(rand.Reader, 4096)
	case "ECDSAP256":
		return ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	case "ECDSAP384":
		return ecdsa.GenerateKey(elliptic.P384(), rand.Reader)
	case "ECDSAP521":
		return ecdsa.GenerateKey(elliptic.P521(), rand.Reader)
	case "ED25519":
		_, key, err := ed25519.GenerateKey(rand.Reader)
		return key, err
	}
	return nil, fmt.Errorf("podCertificate: keyType %q: this node makes none of that type", kind)
}

// pendingCertificates are the requests of a Pod that await their answers. The caller holds the Pod's lock.
func (m *Manager) pendingCertificates(uid types.UID) (refs []objectRef) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key, c := range m.certificates {
		if key.uid == uid && c.request != nil {
			refs = append(refs, c.request.ref)
		}
	}
	return refs
}

// forgetCertificates drops the Pod's keys.
func (m *Manager) forgetCertificates(uid types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for key := range m.certificates {
		if key.uid == uid {
			delete(m.certificates, key)
		}
	}
}
