package join

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	"k8s.io/client-go/util/certificate/csr"
	"k8s.io/client-go/util/connrotation"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/atomicfile"
)

// Wanted describes a certificate that this machine asks its cluster for.
type Wanted struct {
	// Name is for logs.
	Name string
	// Path is the file that keeps certificate and key, PEM.
	Path string
	// Signer is who signs: a signerName of the certificates API.
	Signer     string
	CommonName string
	Groups     []string
	// Server says that it is for serving, at these names and addresses; otherwise it is for a client.
	Server bool
	Names  []string
	IPs    []net.IP
}

// Credential is a certificate with its key: kept in a file, asked for where it is missing, renewed in place.
type Credential struct {
	want Wanted

	mu        sync.Mutex
	pair      *tls.Certificate // nil: none yet
	since     time.Time        // when pair was received; zero: by an earlier process
	pem       []byte           // of certificates, then key, as in the file
	keyPEM    []byte
	listeners []dynamiccertificates.Listener
	ready     chan struct{} // closed when pair is first set
	failures  atomic.Int64  // of Run to get a certificate
}

var _ dynamiccertificates.CertKeyContentProvider = &Credential{}

// Open reads the file. A certificate that is over, for somebody else, or damaged counts as none.
func Open(want Wanted) (*Credential, error) {
	c := &Credential{want: want, ready: make(chan struct{})}
	content, err := os.ReadFile(want.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read certificate %s: %w", want.Name, err)
	}
	pair, err := tls.X509KeyPair(content, content)
	if err != nil || !want.fits(pair.Leaf) || time.Now().After(pair.Leaf.NotAfter) {
		return c, nil
	}
	c.set(&pair, content, time.Time{})
	return c, nil
}

func (w *Wanted) fits(cert *x509.Certificate) bool {
	return cert.Subject.CommonName == w.CommonName && slices.Equal(cert.Subject.Organization, w.Groups) &&
		slices.Equal(cert.DNSNames, w.Names) && slices.EqualFunc(cert.IPAddresses, w.IPs, net.IP.Equal)
}

// Ready is closed once there is a certificate.
func (c *Credential) Ready() <-chan struct{} { return c.ready }

// Valid says whether there is a certificate that has not run out.
func (c *Credential) Valid() bool {
	leaf := c.Leaf()
	return leaf != nil && time.Now().Before(leaf.NotAfter)
}

// Leaf is the current certificate; nil if there is none.
func (c *Credential) Leaf() *x509.Certificate {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair == nil {
		return nil
	}
	return c.pair.Leaf
}

// Failures is how often a certificate could not be had.
func (c *Credential) Failures() int64 { return c.failures.Load() }

// due is when the next certificate is to be asked for: when two thirds of the time have passed for which this one is useful.
// That does not begin with its validity, which lies in the past for the sake of clocks that lag (minutes, however short its life),
// but where that is known when it was received. Zero: there is none.
func (c *Credential) due() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair == nil {
		return time.Time{}
	}
	begin := c.pair.Leaf.NotBefore
	if c.since.After(begin) {
		begin = c.since
	}
	return c.pair.Leaf.NotAfter.Add(-c.pair.Leaf.NotAfter.Sub(begin) / 3)
}

// Certificate is what a client shows when it connects.
func (c *Credential) Certificate() (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.pair == nil {
		return nil, fmt.Errorf("there is no certificate %s yet", c.want.Name)
	}
	return c.pair, nil
}

// Show has a client's configuration, which says nothing of credentials, show the certificate as it is at the time of each
// connection. Connections are closed when it is renewed: a server looks at each request whether the certificate that was shown is
// over, and there is no other way to show it the next one.
func (c *Credential) Show(config *rest.Config) error {
	dial := config.Dial
	if dial == nil {
		dial = (&net.Dialer{}).DialContext
	}
	dialer := connrotation.NewDialer(dial)
	config.Dial = dialer.DialContext
	settings, err := config.TransportConfig()
	if err != nil {
		return fmt.Errorf("show certificate %s: %w", c.want.Name, err)
	}
	settings.TLS.GetCertHolder = &transport.GetCertHolder{GetCert: c.Certificate}
	if config.Transport, err = transport.New(settings); err != nil {
		return fmt.Errorf("show certificate %s: %w", c.want.Name, err)
	}
	config.TLSClientConfig, config.Dial = rest.TLSClientConfig{}, nil
	c.AddListener(closing{dialer})
	return nil
}

// closing closes connections when it is told of a change.
type closing struct{ *connrotation.Dialer }

func (c closing) Enqueue() { c.CloseAll() }

// Name identifies the provider in logs.
func (c *Credential) Name() string { return c.want.Name }

// CurrentCertKeyContent returns certificate and key, PEM; nil before Ready.
func (c *Credential) CurrentCertKeyContent() (certPEM, keyPEM []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.pem, c.keyPEM
}

// AddListener has listener told of every change from now on.
func (c *Credential) AddListener(listener dynamiccertificates.Listener) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.listeners = append(c.listeners, listener)
}

// set makes a certificate the current one, received at that time.
func (c *Credential) set(pair *tls.Certificate, content []byte, since time.Time) {
	var certs, key []byte
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certs = append(certs, pem.EncodeToMemory(block)...)
		} else {
			key = pem.EncodeToMemory(block)
		}
	}
	c.mu.Lock()
	first := c.pair == nil
	c.pair, c.since, c.pem, c.keyPEM = pair, since, certs, key
	listeners := slices.Clone(c.listeners)
	c.mu.Unlock()
	if first {
		close(c.ready)
	}
	for _, l := range listeners {
		l.Enqueue()
	}
}

// Obtain asks for a new certificate with a new key, waits for it, and keeps it.
func (c *Credential) Obtain(ctx context.Context, client kubernetes.Interface) error {
	w := &c.want
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("generate key of %s: %w", w.Name, err)
	}
	keyDER, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return fmt.Errorf("encode key of %s: %w", w.Name, err)
	}
	request, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: w.CommonName, Organization: w.Groups}, DNSNames: w.Names, IPAddresses: w.IPs}, key)
	if err != nil {
		return fmt.Errorf("make certificate request of %s: %w", w.Name, err)
	}
	usage := certificatesv1.UsageClientAuth
	if w.Server {
		usage = certificatesv1.UsageServerAuth
	}
	encoded := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: request})
	name, uid, err := csr.RequestCertificateWithContext(ctx, client, encoded, "", w.Signer, nil,
		[]certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage}, key)
	if err != nil {
		return fmt.Errorf("ask for certificate %s: %w", w.Name, err)
	}
	certs, err := csr.WaitForCertificate(ctx, client, name, uid)
	if err != nil {
		return fmt.Errorf("wait for certificate %s: %w", w.Name, c.denied(ctx, client, name, err))
	}
	content := append(slices.Clip(certs), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})...)
	pair, err := tls.X509KeyPair(content, content)
	if err != nil {
		return fmt.Errorf("read certificate %s that was issued: %w", w.Name, err)
	}
	if err := atomicfile.Write(w.Path, content, 0o600); err != nil {
		return fmt.Errorf("store certificate %s: %w", w.Name, err)
	}
	c.set(&pair, content, time.Now())
	return nil
}

// DeniedError says that the cluster will not give this machine a certificate.
type DeniedError struct{ Message string }

func (e *DeniedError) Error() string { return "the cluster denies it: " + e.Message }

// denied returns a *DeniedError if that is why waiting failed, else the error that it was.
func (c *Credential) denied(ctx context.Context, client kubernetes.Interface, name string, err error) error {
	request, getErr := client.CertificatesV1().CertificateSigningRequests().Get(ctx, name, metav1.GetOptions{})
	if getErr != nil {
		return err
	}
	for _, x := range request.Status.Conditions {
		if x.Type == certificatesv1.CertificateDenied || x.Type == certificatesv1.CertificateFailed {
			return &DeniedError{x.Message}
		}
	}
	return err
}

// Times of renewal.
const (
	// longestSleep bounds how long Run sleeps: timers stand still while a machine is suspended.
	longestSleep         = 24 * time.Hour
	retryFirst, retryMax = time.Second, time.Minute
)

// Run asks for the certificate if there is none, and for the next whenever it is due, until ctx ends. One that is over when it
// comes, by this machine's clock, counts as a failure.
func (c *Credential) Run(ctx context.Context, client kubernetes.Interface) error {
	retry := retryFirst
	for {
		wait := min(time.Until(c.due()), longestSleep)
		if wait <= 0 {
			err := c.Obtain(ctx, client)
			if err == nil && !c.Valid() {
				err = fmt.Errorf("the certificate that was issued is over since %s: is this machine's clock right?", c.Leaf().NotAfter)
			}
			switch {
			case ctx.Err() != nil:
				return nil
			case err == nil:
				klog.FromContext(ctx).Info("Received a certificate", "name", c.want.Name, "until", c.Leaf().NotAfter)
				retry = retryFirst
				continue
			}
			c.failures.Add(1)
			klog.FromContext(ctx).Error(err, "Failed to get a certificate, will try again", "name", c.want.Name, "after", retry)
			wait, retry = retry, min(2*retry, retryMax)
		}
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			timer.Stop()
			return nil
		case <-timer.C:
		}
	}
}
