package certificates

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// How long requests are kept, as upstream keeps them.
const (
	keepDecided = time.Hour
	keepPending = 24 * time.Hour
)

// NewCleaner returns the controller that deletes requests whose time is over.
func NewCleaner(d engine.Deps) (engine.Runner, error) {
	requests := d.Informers.Certificates().V1().CertificateSigningRequests()
	lister := requests.Lister()
	loop := &engine.Loop{Name: "csr-cleaner"}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		c, err := lister.Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read certificate request %s: %w", key.Name, err)
		}
		if wait := time.Until(end(c)); wait > 0 {
			return &engine.Retry{After: wait, Why: "it is kept for a while"}
		}
		err = d.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, c.Name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(c.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete certificate request %s: %w", c.Name, err)
		}
		return nil
	}
	synced, err := requests.Informer().AddEventHandler(engine.OnSet(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	return loop, nil
}

// end is when a request may go: an hour after it was decided, or a day after it came, or when its certificate is over.
func end(c *csr) time.Time {
	at := c.CreationTimestamp.Add(keepPending)
	for _, x := range c.Status.Conditions {
		switch x.Type {
		case certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			at = x.LastUpdateTime.Add(keepDecided)
		case certificatesv1.CertificateApproved:
			if len(c.Status.Certificate) > 0 {
				at = x.LastUpdateTime.Add(keepDecided)
			}
		}
	}
	if block, _ := pem.Decode(c.Status.Certificate); block != nil {
		if cert, err := x509.ParseCertificate(block.Bytes); err == nil && cert.NotAfter.Before(at) {
			at = cert.NotAfter
		}
	}
	return at
}
