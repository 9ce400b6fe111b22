package join

import (
	"context"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver/servertest"
	csrs "github.com/peapod/peapod/internal/csr"
)

// signer approves and signs each request for a certificate, with the times that it is given, one after the other.
func signer(ctx context.Context, t *testing.T, client kubernetes.Interface, ca *servertest.Authority, lives <-chan [2]time.Time) {
	requests := client.CertificatesV1().CertificateSigningRequests()
	w, err := requests.Watch(ctx, metav1.ListOptions{})
	if err != nil {
		t.Errorf("watch requests: %v", err)
		return
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		csr, ok := e.Object.(*certificatesv1.CertificateSigningRequest)
		if !ok || len(csr.Status.Conditions) > 0 {
			continue
		}
		csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{
			{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
		if csr, err = requests.UpdateApproval(ctx, csr.Name, csr, metav1.UpdateOptions{}); err != nil {
			t.Errorf("approve: %v", err)
			return
		}
		request, err := csrs.Parse(csr.Spec.Request)
		if err != nil {
			t.Errorf("parse request: %v", err)
			return
		}
		life := <-lives
		if csr.Status.Certificate, err = ca.Sign(request, life[0], life[1]); err != nil {
			t.Errorf("sign: %v", err)
			return
		}
		if _, err := requests.UpdateStatus(ctx, csr, metav1.UpdateOptions{}); err != nil && ctx.Err() == nil {
			t.Errorf("sign: %v", err)
			return
		}
	}
}

// told counts what a credential's listener hears.
type told chan struct{}

func (c told) Enqueue() { c <- struct{}{} }

// A certificate is asked for, renewed with a new key before it is over, kept in its file, and told of; one that is over when it
// comes is asked for again.
func TestCredentialIsRenewed(t *testing.T) {
	server := servertest.Start(t, nil)
	client := server.Client(t)
	want := Wanted{Name: "test", Path: filepath.Join(t.TempDir(), "kubelet.pem"), Signer: certificatesv1.KubeAPIServerClientKubeletSignerName,
		CommonName: "system:node:n1", Groups: []string{"system:nodes"}}
	c, err := Open(want)
	if err != nil || c.Valid() {
		t.Fatalf("there is a certificate before any was asked for: %v", err)
	}
	heard := make(told, 10)
	c.AddListener(heard)
	ctx, cancel := context.WithCancel(t.Context())
	lives := make(chan [2]time.Time)
	ended := make(chan error, 2)
	go func() {
		signer(ctx, t, client, server.CA, lives)
		ended <- nil
	}()
	go func() { ended <- c.Run(ctx, client) }()
	now := time.Now().Truncate(time.Second)
	var serials []string
	var keys []string
	for i, life := range [][2]time.Time{
		{now.Add(-2 * time.Hour), now.Add(-time.Hour)},
		{now.Add(-5 * time.Minute), now.Add(4 * time.Second)},
		{now.Add(-2 * time.Hour), now.Add(59 * time.Minute)}, // Long valid, but only just received.
	} {
		select {
		case lives <- life:
		case <-time.After(time.Minute):
			t.Fatalf("certificate %d is not asked for in time", i)
		}
		<-heard
		leaf := c.Leaf()
		if !leaf.NotAfter.Equal(life[1]) {
			t.Errorf("certificate %d is valid until %v, want %v", i, leaf.NotAfter, life[1])
		}
		_, key := c.CurrentCertKeyContent()
		serials, keys = append(serials, leaf.SerialNumber.String()), append(keys, string(key))
	}
	for i := 1; i < len(keys); i++ {
		if keys[i] == keys[i-1] || serials[i] == serials[i-1] {
			t.Errorf("certificate %d is the one before it", i)
		}
	}
	if due := c.due(); due.Before(now.Add(30 * time.Minute)) {
		t.Errorf("it is due at %v, which is less than two thirds of what it is good for", due)
	}
	again, err := Open(want)
	if err == nil && again.due().After(now.Add(time.Minute)) {
		t.Errorf("another process, which does not know since when it is there, takes it to be due at %v", again.due())
	}
	if err != nil || !again.Valid() || again.Leaf().SerialNumber.String() != serials[2] {
		t.Errorf("the file does not hold the last certificate: %v", err)
	}
	// A certificate for somebody else counts as none.
	want.CommonName = "system:node:n2"
	if other, err := Open(want); err != nil || other.Valid() {
		t.Errorf("another node's certificate is taken: %v", err)
	}
	cancel()
	for range 2 {
		if err := <-ended; err != nil {
			t.Errorf("Run ended with: %v", err)
		}
	}
}

// A request that is denied says so and why.
func TestCredentialIsDenied(t *testing.T) {
	client := servertest.Start(t, nil).Client(t)
	c, err := Open(Wanted{Name: "test", Path: filepath.Join(t.TempDir(), "kubelet.pem"), Signer: certificatesv1.KubeAPIServerClientKubeletSignerName,
		CommonName: "system:node:n1", Groups: []string{"system:nodes"}})
	if err != nil {
		t.Fatal(err)
	}
	requests := client.CertificatesV1().CertificateSigningRequests()
	w, err := requests.Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var denied atomic.Bool
	var approver sync.WaitGroup
	defer approver.Wait() // its request may be answered later than the watch tells of it
	approver.Go(func() {
		defer w.Stop()
		for e := range w.ResultChan() {
			csr, ok := e.Object.(*certificatesv1.CertificateSigningRequest)
			if !ok || denied.Swap(true) {
				continue
			}
			csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{
				{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue, Reason: "Test", Message: "not this one"}}
			if _, err := requests.UpdateApproval(t.Context(), csr.Name, csr, metav1.UpdateOptions{}); err != nil {
				t.Errorf("deny: %v", err)
			}
			return
		}
	})
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	err = c.Obtain(ctx, client)
	if err == nil || err.Error() != "wait for certificate test: the cluster denies it: not this one" {
		t.Errorf("a denied request ends with: %v", err)
	}
}
