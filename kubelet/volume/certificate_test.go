package volume

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/testca"
	"github.com/peapod/peapod/kubelet/pod"
)

// signer answers the requests of a fake API.
type signer struct {
	t      *testing.T
	client *fake.Clientset
	ca     *testca.Authority
}

// newSigner also gives requests names, which the fake API does not.
func newSigner(t *testing.T, client *fake.Clientset) *signer {
	t.Helper()
	s := &signer{t: t, client: client, ca: testca.New(t, "ca")}
	made := 0
	client.PrependReactor("create", "podcertificaterequests", func(a clienttesting.Action) (bool, runtime.Object, error) {
		r := a.(clienttesting.CreateAction).GetObject().(*certificatesv1.PodCertificateRequest)
		made++
		r.Name = r.GenerateName + strconv.Itoa(made)
		return false, nil, nil
	})
	return s
}

// pem returns a certificate for the public key, with text around it.
func (s *signer) pem(public any, notAfter time.Time) string {
	s.t.Helper()
	block, _ := pem.Decode(s.ca.MustSign(s.t, &x509.Certificate{NotAfter: notAfter}, public))
	block.Headers = map[string]string{"a": "b"}
	return "text\n" + string(pem.EncodeToMemory(block))
}

func (s *signer) requests() []certificatesv1.PodCertificateRequest {
	s.t.Helper()
	list, err := s.client.CertificatesV1().PodCertificateRequests("ns").List(s.t.Context(), metav1.ListOptions{})
	if err != nil {
		s.t.Fatal(err)
	}
	return list.Items
}

// issue answers a request with a certificate that is to be renewed at a time.
func (s *signer) issue(r *certificatesv1.PodCertificateRequest, refresh, notAfter time.Time) {
	s.t.Helper()
	csr, err := x509.ParseCertificateRequest(r.Spec.StubPKCS10Request)
	if err != nil {
		s.t.Fatal(err)
	}
	s.answer(r, certificatesv1.PodCertificateRequestStatus{
		Conditions: []metav1.Condition{{Type: "Issued", Status: metav1.ConditionTrue}}, CertificateChain: s.pem(csr.PublicKey, notAfter),
		NotBefore: ptr.To(metav1.Now()), BeginRefreshAt: &metav1.Time{Time: refresh}, NotAfter: &metav1.Time{Time: notAfter},
	})
}

func (s *signer) answer(r *certificatesv1.PodCertificateRequest, status certificatesv1.PodCertificateRequestStatus) {
	s.t.Helper()
	r.Status = status
	if _, err := s.client.CertificatesV1().PodCertificateRequests("ns").UpdateStatus(s.t.Context(), r, metav1.UpdateOptions{}); err != nil {
		s.t.Fatal(err)
	}
}

func certificatePod(keyType string) *v1.Pod {
	return podWith(v1.Volume{Name: "cert", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{{
		PodCertificate: &v1.PodCertificateProjection{SignerName: "example.com/foo", KeyType: keyType, CredentialBundlePath: "bundle.pem",
			KeyPath: "key.pem", CertificateChainPath: "chain.pem", UserAnnotations: map[string]string{"example.com/a": "b"}},
	}}}}})
}

// prepareWhen waits for what the Pod's preparation says that it waits for, and tries again.
func prepareWhen(t *testing.T, m *Manager, p *v1.Pod, err error) error {
	t.Helper()
	var retry *pod.RetryError
	if !errors.As(err, &retry) {
		t.Fatalf("it does not wait: %v", err)
	}
	select {
	case <-retry.Ready:
	case <-time.After(time.Minute):
		t.Fatalf("it waits for ever: %v", err)
	}
	return m.Prepare(t.Context(), p)
}

var account = &v1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default", Namespace: "ns", UID: "account-1"}}

func TestPodCertificate(t *testing.T) {
	for _, kind := range []string{"RSA3072", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"} {
		t.Run(kind, func(t *testing.T) {
			m, client := newManager(t, account)
			s := newSigner(t, client)
			p := certificatePod(kind)
			err := m.Prepare(t.Context(), p)
			if err == nil || !strings.Contains(err.Error(), `PodCertificateRequest "req-p-1" of signer "example.com/foo" is not answered yet`) {
				t.Fatalf("before an answer: %v", err)
			}
			r := s.requests()[0]
			spec := &r.Spec
			if spec.PodName != "p" || spec.PodUID != "uid-1" || spec.ServiceAccountUID != "account-1" || spec.NodeName != "n1" || spec.NodeUID != "node-1" ||
				spec.UnverifiedUserAnnotations["example.com/a"] != "b" || len(r.OwnerReferences) != 1 || r.OwnerReferences[0].UID != "uid-1" {
				t.Errorf("request %+v", r)
			}
			s.issue(&r, time.Now().Add(time.Hour), time.Now().Add(2*time.Hour))
			for err != nil {
				err = prepareWhen(t, m, p, err)
			}
			dir := m.volumeDir(p.UID, &p.Spec.Volumes[0])
			if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "chain.pem"), filepath.Join(dir, "key.pem")); err != nil {
				t.Error(err)
			}
			if _, err := tls.LoadX509KeyPair(filepath.Join(dir, "bundle.pem"), filepath.Join(dir, "bundle.pem")); err != nil {
				t.Error(err)
			}
			if b, _ := os.ReadFile(filepath.Join(dir, "bundle.pem")); strings.Contains(string(b), "text") || strings.Contains(string(b), "a: b") || !strings.HasPrefix(string(b), "-----BEGIN PRIVATE KEY") {
				t.Errorf("bundle %s", b)
			}
			if err := m.Prepare(t.Context(), p); err != nil || len(s.requests()) != 1 {
				t.Errorf("asked %d times, %v", len(s.requests()), err)
			}
			m.objects.mu.Lock()
			defer m.objects.mu.Unlock()
			if left := len(m.objects.watched); left != 0 {
				t.Errorf("%d objects are watched though all is settled", left)
			}
		})
	}
}

// TestPodCertificateRefresh: a certificate near its end is replaced, in its files, once the next one is issued; a signer's no
// leaves the old one while it is valid.
func TestPodCertificateRefresh(t *testing.T) {
	m, client := newManager(t, account)
	s := newSigner(t, client)
	p := certificatePod("ECDSAP256")
	err := m.Prepare(t.Context(), p)
	now := m.cfg.Clock.Now()
	s.issue(&s.requests()[0], now, now.Add(time.Hour))
	for err != nil {
		err = prepareWhen(t, m, p, err)
	}
	chain := filepath.Join(m.volumeDir(p.UID, &p.Spec.Volumes[0]), "chain.pem")
	first, err := os.ReadFile(chain)
	if err != nil {
		t.Fatal(err)
	}
	key := certificateKey{p.UID, "cert", 0}
	look := func(later time.Duration) { // as if so much time had passed
		pv := m.track(p)
		pv.mu.Lock()
		defer pv.mu.Unlock()
		c := m.certificates[key]
		c.refresh, c.notAfter = c.refresh.Add(-later), c.notAfter.Add(-later)
		if c.request != nil {
			c.request.made = c.request.made.Add(-later)
		}
	}
	look(10 * time.Minute)
	if err := m.Prepare(t.Context(), p); err != nil || len(s.requests()) != 2 {
		t.Fatalf("due for renewal: %d requests, %v", len(s.requests()), err)
	}
	// Nobody answers: it is asked again, and the old one stays.
	look(requestLife)
	if err := m.Prepare(t.Context(), p); err != nil || len(s.requests()) != 3 {
		t.Fatalf("after no answer: %d requests, %v", len(s.requests()), err)
	}
	if b, err := os.ReadFile(chain); err != nil || string(b) != string(first) {
		t.Errorf("before the next one: %s, %v", b, err)
	}
	written := watchDir(t, filepath.Dir(chain))
	third := s.requests()[2]
	s.issue(&third, now.Add(time.Hour), now.Add(2*time.Hour))
	for b := first; string(b) == string(first); {
		written()
		if b, err = os.ReadFile(chain); err != nil {
			t.Fatal(err)
		}
	}
	look(time.Hour + 10*time.Minute)
	if err := m.Prepare(t.Context(), p); err != nil || len(s.requests()) != 4 {
		t.Fatalf("due for renewal: %d requests, %v", len(s.requests()), err)
	}
	fourth := s.requests()[3]
	s.answer(&fourth, certificatesv1.PodCertificateRequestStatus{Conditions: []metav1.Condition{{Type: "Denied", Status: metav1.ConditionTrue, Reason: "No", Message: "because"}}})
	for {
		obj, changed, err := m.objects.get(t.Context(), objectRef{requestKind, "ns", fourth.Name})
		// It is watched no more once the answer has been taken in.
		if err != nil || len(obj.(*certificatesv1.PodCertificateRequest).Status.Conditions) > 0 {
			break
		}
		<-changed
	}
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatalf("denied while one is valid: %v", err)
	}
	look(time.Hour)
	if err := m.Prepare(t.Context(), p); err == nil || !strings.Contains(err.Error(), "Denied: No: because") {
		t.Errorf("denied, and the old one is over: %v", err)
	}
}

func bundleOf(name, text string) *certificatesv1.ClusterTrustBundle {
	return &certificatesv1.ClusterTrustBundle{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"bundle": name}},
		Spec: certificatesv1.ClusterTrustBundleSpec{SignerName: "example.com/foo", TrustBundle: text}}
}

func TestTrustBundles(t *testing.T) {
	block := func(text string) string {
		return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: []byte(text)}))
	}
	m, client := newManager(t, bundleOf("b", "hi\n"+block("2")+block("3")), bundleOf("a", block("1")+block("2")))
	source := func(path string, s v1.ClusterTrustBundleProjection) v1.VolumeProjection {
		s.Path = path
		return v1.VolumeProjection{ClusterTrustBundle: &s}
	}
	foo := ptr.To("example.com/foo")
	p := podWith(v1.Volume{Name: "trust", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		source("named", v1.ClusterTrustBundleProjection{Name: ptr.To("b")}),
		source("all", v1.ClusterTrustBundleProjection{SignerName: foo, LabelSelector: &metav1.LabelSelector{}}),
		source("some", v1.ClusterTrustBundleProjection{SignerName: foo, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"bundle": "a"}}}),
		source("none", v1.ClusterTrustBundleProjection{SignerName: foo, Optional: ptr.To(true)}),
		source("nowhere", v1.ClusterTrustBundleProjection{Name: ptr.To("c"), Optional: ptr.To(true)}),
	}}}})
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	dir := m.volumeDir(p.UID, &p.Spec.Volumes[0])
	check := func(want map[string]string) {
		t.Helper()
		for name, text := range want {
			if b, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(b) != text {
				t.Errorf("%s: %q, %v; want %q", name, b, err, text)
			}
		}
	}
	check(map[string]string{"named": block("2") + block("3"), "all": block("1") + block("2") + block("3"), "some": block("1") + block("2"), "none": "", "nowhere": ""})
	// They follow their objects.
	written := watchDir(t, dir)
	if _, err := client.CertificatesV1().ClusterTrustBundles().Update(context.Background(), bundleOf("b", block("4")), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	for b := ""; b != block("4"); {
		written()
		data, err := os.ReadFile(filepath.Join(dir, "named"))
		if err != nil {
			t.Fatal(err)
		}
		b = string(data)
	}
	if err := m.Prepare(t.Context(), p); err != nil {
		t.Fatal(err)
	}
	check(map[string]string{"all": block("1") + block("2") + block("4")})

	// What is missing and not optional is waited for.
	q := podWith(v1.Volume{Name: "trust", VolumeSource: v1.VolumeSource{Projected: &v1.ProjectedVolumeSource{Sources: []v1.VolumeProjection{
		source("x", v1.ClusterTrustBundleProjection{SignerName: foo, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"bundle": "c"}}})}}}})
	q.UID = "uid-2"
	err := m.Prepare(t.Context(), q)
	if err == nil || !strings.Contains(err.Error(), `combination of signerName "example.com/foo" and labelSelector "bundle=c" matched zero ClusterTrustBundles`) {
		t.Fatalf("none match: %v", err)
	}
	if _, err := client.CertificatesV1().ClusterTrustBundles().Create(context.Background(), bundleOf("c", block("5")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for err != nil {
		err = prepareWhen(t, m, q, err)
	}
}
