package podcertificaterequest

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource/scenario"
	"github.com/peapod/peapod/internal/testca"
)

func TestScenarios(t *testing.T) {
	real := now
	defer func() { now = real }()
	now = func() time.Time { return time.Date(2026, 1, 2, 3, 1, 0, 0, time.UTC) }
	scenario.Run(t, Declaration(), "testdata")
}

// TestEnded: what a signer has answered stays, and what it has not answered is not begun.
func TestEnded(t *testing.T) {
	at := metav1.NewTime(time.Date(2026, 1, 2, 3, 0, 0, 0, time.UTC))
	old := &pcr{}
	old.Status.CertificateChain, old.Status.NotBefore, old.Status.BeginRefreshAt, old.Status.NotAfter = "chain", &at, &at, &at
	old.Status.Conditions = []metav1.Condition{{Type: "Issued", Status: metav1.ConditionTrue, Reason: "Fine", Message: "m", LastTransitionTime: at}}
	later := metav1.NewTime(at.Add(time.Second))
	if errs := (kind{}).ValidateStatusUpdate(t.Context(), old.DeepCopy(), old); len(errs) > 0 {
		t.Errorf("a write that changes nothing: %v", errs)
	}
	for name, change := range map[string]func(*pcr){
		"chain":        func(o *pcr) { o.Status.CertificateChain += "x" },
		"begin":        func(o *pcr) { o.Status.NotBefore = &later },
		"refresh":      func(o *pcr) { o.Status.BeginRefreshAt = nil },
		"end":          func(o *pcr) { o.Status.NotAfter = &later },
		"outcome":      func(o *pcr) { o.Status.Conditions[0].Type = "Failed" },
		"no condition": func(o *pcr) { o.Status.Conditions = nil },
	} {
		obj := old.DeepCopy()
		change(obj)
		errs := kind{}.ValidateStatusUpdate(t.Context(), obj, old)
		if len(errs) != 1 || errs[0].Field != "status" || errs[0].Detail != "immutable after PodCertificateRequest is issued, denied, or failed" {
			t.Errorf("%s: %v", name, errs)
		}
	}
	other := old.DeepCopy()
	other.Status.Conditions = append(other.Status.Conditions, metav1.Condition{Type: "Seen", Status: "True", Reason: "R", LastTransitionTime: at})
	if errs := (kind{}).ValidateStatusUpdate(t.Context(), other, old); len(errs) != 1 || errs[0].Field != "status.conditions[1].type" {
		t.Errorf("a condition that says nothing: %v", errs)
	}
	half := &pcr{Status: certificatesv1.PodCertificateRequestStatus{NotBefore: &at}}
	if errs := (kind{}).ValidateStatusUpdate(t.Context(), half, &pcr{}); len(errs) != 1 || !strings.HasPrefix(errs[0].Detail, "status is immutable unless") {
		t.Errorf("a part of an answer: %v", errs)
	}
}

// TestIssued: each thing that a certificate must be is asked for.
func TestIssued(t *testing.T) {
	begin := time.Now().UTC().Truncate(time.Second)
	ca, request := testca.New(t, "ca"), testca.NewRequest(t, &x509.CertificateRequest{})
	asked, err := x509.ParseCertificateRequest(request)
	if err != nil {
		t.Fatal(err)
	}
	for want, c := range map[string]struct {
		template func(*x509.Certificate)
		status   func(*certificatesv1.PodCertificateRequestStatus)
	}{
		"":                             {},
		"empty DNSName":                {template: func(c *x509.Certificate) { c.ExtraExtensions = alternative(t, 2, "") }},
		"should not contain '..'":      {template: func(c *x509.Certificate) { c.ExtraExtensions = alternative(t, 2, "a..b") }},
		"should not start or end":      {template: func(c *x509.Certificate) { c.ExtraExtensions = alternative(t, 2, ".a") }},
		"invalid EmailAddress":         {template: func(c *x509.Certificate) { c.ExtraExtensions = alternative(t, 1, "nobody") }},
		"the NotBefore time encoded":   {status: func(s *certificatesv1.PodCertificateRequestStatus) { s.NotBefore.Time = begin.Add(-time.Second) }},
		"within 5 minutes":             {template: func(c *x509.Certificate) { c.NotBefore = begin.Add(-6 * time.Minute) }},
		"the NotAfter time encoded":    {status: func(s *certificatesv1.PodCertificateRequestStatus) { s.NotAfter.Time = begin.Add(2 * time.Hour) }},
		"lifetime must be >= 1 hour":   {template: func(c *x509.Certificate) { c.NotAfter = begin.Add(59 * time.Minute) }},
		"lifetime must be <= spec.max": {template: func(c *x509.Certificate) { c.NotAfter = begin.Add(3 * time.Hour) }},
		"after status.notBefore": {status: func(s *certificatesv1.PodCertificateRequestStatus) {
			s.BeginRefreshAt.Time = begin.Add(9 * time.Minute)
		}},
		"before status.notAfter": {status: func(s *certificatesv1.PodCertificateRequestStatus) {
			s.BeginRefreshAt.Time = begin.Add(51 * time.Minute)
		}},
		"be present and in the range":   {status: func(s *certificatesv1.PodCertificateRequestStatus) { s.BeginRefreshAt = nil }},
		"entirely of CERTIFICATE":       {status: func(s *certificatesv1.PodCertificateRequestStatus) { s.CertificateChain += block("X", nil) }},
		"intermediate certificate does": {status: func(s *certificatesv1.PodCertificateRequestStatus) { s.CertificateChain += block("CERTIFICATE", nil) }},
		"leaf certificate does not":     {status: func(s *certificatesv1.PodCertificateRequestStatus) { s.CertificateChain = block("CERTIFICATE", nil) }},
		"may not be more than 102400": {status: func(s *certificatesv1.PodCertificateRequestStatus) {
			s.CertificateChain += strings.Repeat(" ", maxChain)
		}},
		"must contain at least one cert": {status: func(s *certificatesv1.PodCertificateRequestStatus) { s.CertificateChain = "" }},
	} {
		template := &x509.Certificate{NotBefore: begin, NotAfter: begin.Add(time.Hour)}
		if c.template != nil {
			c.template(template)
		}
		obj := &pcr{}
		obj.Spec.StubPKCS10Request, obj.Spec.MaxExpirationSeconds = request, ptr.To[int32](7200)
		from, refresh, to := metav1.NewTime(template.NotBefore), metav1.NewTime(begin.Add(30*time.Minute)), metav1.NewTime(template.NotAfter)
		obj.Status = certificatesv1.PodCertificateRequestStatus{
			Conditions:       []metav1.Condition{{Type: "Issued", Status: "True", Reason: "Fine", LastTransitionTime: from}},
			CertificateChain: string(ca.MustSign(t, template, asked.PublicKey)), NotBefore: &from, BeginRefreshAt: &refresh, NotAfter: &to,
		}
		if c.status != nil {
			c.status(&obj.Status)
		}
		errs := kind{}.ValidateStatusUpdate(t.Context(), obj, &pcr{Spec: obj.Spec})
		if want == "" && len(errs) > 0 || want != "" && (len(errs) != 1 || !strings.Contains(errs[0].Error(), want)) {
			t.Errorf("%q: %v", want, errs)
		}
	}
}

func block(kind string, content []byte) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}))
}

// alternative is the extension for one further name of that kind (RFC 5280: 1 is a mail address, 2 a DNS name), which
// crypto/x509 does not write where the name is none.
func alternative(t *testing.T, kind int, name string) []pkix.Extension {
	value, err := asn1.Marshal([]asn1.RawValue{{Class: asn1.ClassContextSpecific, Tag: kind, Bytes: []byte(name)}})
	if err != nil {
		t.Fatal(err)
	}
	return []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 17}, Value: value}}
}
