package authn

import (
	"crypto/sha256"
	cryptox509 "crypto/x509"
	"net/http"
	"sync"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/utils/clock"
)

// certificates authenticates the bearers of client certificates. Verifying a chain takes a tenth of the processor time of a
// whole request, so it is done once for all requests that present the same certificates to the same authority; that
// the peer has the key, the handshake has shown for each connection. Refusals are not remembered.
type certificates struct {
	verify x509.VerifyOptionFunc
	clock  clock.PassiveClock

	mu sync.RWMutex
	// roots is the authority against which those known were verified. A new one forgets them all.
	roots *cryptox509.CertPool
	known map[[sha256.Size]byte]bearer
}

// bearer is whom certificates speak for, and until when they do: the end of the first certificate in their chain to end.
type bearer struct {
	response *authenticator.Response
	until    time.Time
}

// maxBearers bounds how many certificates are remembered.
const maxBearers = 4096

var _ authenticator.Request = (*certificates)(nil)

func newCertificates(verify x509.VerifyOptionFunc, clk clock.PassiveClock) *certificates {
	return &certificates{verify: verify, clock: clk, known: map[[sha256.Size]byte]bearer{}}
}

// AuthenticateRequest returns whom the request's certificates speak for, if there are any.
func (c *certificates) AuthenticateRequest(req *http.Request) (*authenticator.Response, bool, error) {
	if req.TLS == nil || len(req.TLS.PeerCertificates) == 0 {
		return nil, false, nil
	}
	options, ok := c.verify()
	if !ok {
		return nil, false, nil
	}
	now, key := c.clock.Now(), fingerprint(req.TLS.PeerCertificates)
	c.mu.RLock()
	b, known := c.known[key]
	known = known && c.roots == options.Roots && !now.After(b.until)
	c.mu.RUnlock()
	if known {
		return b.response, true, nil
	}
	options.CurrentTime = now
	var until time.Time
	response, ok, err := x509.New(options, x509.UserConversionFunc(func(chain []*cryptox509.Certificate) (*authenticator.Response, bool, error) {
		until = end(chain)
		return x509.CommonNameUserConversion.User(chain)
	})).AuthenticateRequest(req)
	if ok && err == nil {
		c.remember(options.Roots, key, bearer{response, until})
	}
	return response, ok, err
}

func (c *certificates) remember(roots *cryptox509.CertPool, key [sha256.Size]byte, b bearer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.roots != roots || len(c.known) >= maxBearers {
		clear(c.known)
		c.roots = roots
	}
	c.known[key] = b
}

// fingerprint tells what was presented from all else: the client's certificate and the intermediate ones, in order.
func fingerprint(presented []*cryptox509.Certificate) (sum [sha256.Size]byte) {
	h := sha256.New()
	for _, cert := range presented {
		h.Write(cert.Raw) // DER says its own length, so no two lists concatenate to the same bytes
	}
	h.Sum(sum[:0])
	return sum
}

// end is the end of the first certificate to end.
func end(chain []*cryptox509.Certificate) time.Time {
	first := chain[0].NotAfter
	for _, cert := range chain[1:] {
		if cert.NotAfter.Before(first) {
			first = cert.NotAfter
		}
	}
	return first
}
