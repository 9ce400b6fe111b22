package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/internal/testca"
)

// A Pod gets a certificate of a signer of its own, which is this test, for a key that only the Pod has; and the anchors by
// which it knows the API server.
func TestPodCertificateAndTrustBundle(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	signer := "example.com/" + s.name
	s.apply(script("certified", "sleep 1000000", `
securityContext: {runAsUser: 1234, fsGroup: 1234}
volumes:
- name: c
  projected:
    sources:
    - podCertificate: {signerName: `+signer+`, keyType: ECDSAP384, credentialBundlePath: bundle.pem}
    - clusterTrustBundle: {signerName: kubernetes.io/kube-apiserver-serving, labelSelector: {}, path: api.pem}
`, "volumeMounts: [{name: c, mountPath: /c}]"))
	s.event("certified", "FailedMount", "is not answered yet")
	request := s.certificateRequest()
	contains(t, "requests", s.kubectl("get", "podcertificaterequests"), request.Name, "certified", "default", signer, "Pending")
	leaf := s.issue(request)
	s.ready("certified")
	text := []byte(s.kubectl("exec", "certified", "--", "cat", "/c/bundle.pem"))
	pair, err := tls.X509KeyPair(text, text)
	if err != nil || pair.Leaf == nil || pair.Leaf.SerialNumber.Cmp(leaf.SerialNumber) != 0 {
		t.Errorf("the bundle holds %v, %v", pair.Leaf, err)
	}
	contains(t, "owner and mode", s.kubectl("exec", "certified", "--", "stat", "-Lc", "%u %a", "/c/bundle.pem"), "1234 640")
	contains(t, "requests", s.kubectl("get", "podcertificaterequests"), "Issued")
	ca := s.kubectl("get", "configmap", "kube-root-ca.crt", "-o", `jsonpath={.data.ca\.crt}`)
	if got := s.kubectl("exec", "certified", "--", "cat", "/c/api.pem"); got != ca {
		t.Errorf("trust anchors %s, want %s", got, ca)
	}
	// It goes with its Pod.
	s.kubectl("delete", "pod", "certified")
	s.kubectl("wait", "--for=delete", "podcertificaterequest/"+request.Name, "--timeout="+patience.String())
}

// certificateRequest waits for the first request in the namespace.
func (s *space) certificateRequest() *certificatesv1.PodCertificateRequest {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), patience)
	defer cancel()
	w, err := s.client.CertificatesV1().PodCertificateRequests(s.name).Watch(ctx, metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	defer w.Stop()
	for e := range w.ResultChan() {
		if r, ok := e.Object.(*certificatesv1.PodCertificateRequest); ok {
			return r
		}
	}
	s.t.Fatal("nobody asks for a certificate")
	return nil
}

// issue answers a request as a signer does.
func (s *space) issue(r *certificatesv1.PodCertificateRequest) *x509.Certificate {
	s.t.Helper()
	csr, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil {
		s.t.Fatal(err)
	}
	begin := time.Now().Truncate(time.Second)
	leaf := &x509.Certificate{SerialNumber: big.NewInt(2), Subject: pkix.Name{CommonName: r.Spec.PodName}, NotBefore: begin, NotAfter: begin.Add(time.Hour)}
	cert := testca.New(s.t, "ca").MustSign(s.t, leaf, csr.PublicKey)
	r.Status = certificatesv1.PodCertificateRequestStatus{
		CertificateChain: string(cert),
		NotBefore:        &metav1.Time{Time: begin}, BeginRefreshAt: &metav1.Time{Time: begin.Add(40 * time.Minute)}, NotAfter: &metav1.Time{Time: begin.Add(time.Hour)},
		Conditions: []metav1.Condition{{Type: "Issued", Status: metav1.ConditionTrue, Reason: "Signed", Message: "by the test", LastTransitionTime: metav1.Now()}},
	}
	if _, err := s.client.CertificatesV1().PodCertificateRequests(s.name).UpdateStatus(s.t.Context(), r, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
	return leaf
}
