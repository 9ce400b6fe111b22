package podcertificates

import (
	"context"
	"crypto/x509"
	"errors"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/testca"
	"github.com/peapod/peapod/test/controltest"
)

// TestCleaner: a request stays until its time is over, and goes then.
func TestCleaner(t *testing.T) {
	real := now
	defer func() { now = real }()
	early := make(chan error, 1)
	var loop *engine.Loop
	w := controltest.Start(t, func(d engine.Deps) (engine.Runner, error) {
		r, err := New(d)
		if err != nil {
			return nil, err
		}
		loop = r.(*engine.Loop)
		sync := loop.Sync
		loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
			err := sync(ctx, key)
			var retry *engine.Retry
			if errors.As(err, &retry) && now().Year() < 3000 {
				early <- err
				return nil
			}
			return err
		}
		return loop, nil
	})
	api := w.Client.CertificatesV1().PodCertificateRequests(controltest.Namespace)
	made, err := api.Create(t.Context(), request(t), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var retry *engine.Retry
	if err := <-early; !errors.As(err, &retry) || retry.After <= keep-time.Minute || retry.After > keep {
		t.Errorf("a new request: %v", err)
	}
	events, err := api.Watch(t.Context(), metav1.ListOptions{ResourceVersion: made.ResourceVersion})
	if err != nil {
		t.Fatal(err)
	}
	defer events.Stop()
	now = func() time.Time { return made.CreationTimestamp.Add(keep) }
	loop.Add(cache.ObjectName{Namespace: made.Namespace, Name: made.Name})
	if e := <-events.ResultChan(); e.Type != watch.Deleted {
		t.Errorf("after its time: %v", e)
	}
}

func request(t *testing.T) *certificatesv1.PodCertificateRequest {
	t.Helper()
	return &certificatesv1.PodCertificateRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "r"},
		Spec: certificatesv1.PodCertificateRequestSpec{
			SignerName: "example.com/foo", PodName: "p", PodUID: "u", ServiceAccountName: "s", ServiceAccountUID: "u", NodeName: "n", NodeUID: "u",
			StubPKCS10Request: testca.NewRequest(t, &x509.CertificateRequest{}),
		},
	}
}
