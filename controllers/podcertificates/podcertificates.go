// Package podcertificates deletes PodCertificateRequests whose time is over. Signers of others answer them; the cluster
// has none of its own (KEP-4317).
package podcertificates

import (
	"context"
	"fmt"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role of
// the same name fits.
const Name = "podcertificaterequestcleaner"

// keep is for how long a request is kept, answered or not; the kubelet makes another one.
const keep = 15 * time.Minute

// now is replaced in tests.
var now = time.Now

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	requests := d.Informers.Certificates().V1().PodCertificateRequests()
	lister := requests.Lister()
	loop := &engine.Loop{Name: Name}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		r, err := lister.PodCertificateRequests(key.Namespace).Get(key.Name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read pod certificate request %s: %w", key, err)
		}
		if wait := r.CreationTimestamp.Add(keep).Sub(now()); wait > 0 {
			return &engine.Retry{After: wait, Why: "it is kept for a while"}
		}
		err = d.Client.CertificatesV1().PodCertificateRequests(key.Namespace).Delete(ctx, key.Name,
			metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(r.UID))})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("delete pod certificate request %s: %w", key, err)
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
