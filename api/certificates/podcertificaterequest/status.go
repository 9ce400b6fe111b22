package podcertificaterequest

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

const (
	// refreshMargin lies at least between a certificate's begin or end and the time at which the kubelet renews it.
	refreshMargin = 10 * time.Minute
	// maxSkew is how far a certificate's begin may be from the time of its issue.
	maxSkew = 5 * time.Minute
	// maxChain bounds the certificates, in bytes.
	maxChain = 100 * 1024
)

// now is replaced in tests.
var now = time.Now

// ValidateStatusUpdate lets a signer end a request: with a certificate, or with a denial or failure and none.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *pcr) field.ErrorList {
	path := field.NewPath("status")
	errs := validateConditions(obj, path.Child("conditions"))
	if outcome(old) != nil {
		// It has ended: other conditions may still come and go.
		errs = append(errs, apivalidation.ValidateImmutableField(outcome(obj), outcome(old), path.Child("conditions"))...)
		return append(errs, sameCertificate(&obj.Status, &old.Status, path)...)
	}
	end := outcome(obj)
	if end == nil || end.Type != certificatesv1.PodCertificateRequestConditionTypeIssued {
		return append(errs, noCertificate(&obj.Status, path)...)
	}
	if len(errs) > 0 {
		return errs
	}
	return validateIssued(obj, path)
}

func validateConditions(obj *pcr, path *field.Path) field.ErrorList {
	list := obj.Status.Conditions
	errs := metav1validation.ValidateConditions(list, path)
	ends := 0
	for i := range list {
		if !final(list[i].Type) {
			continue
		}
		if ends++; ends > 1 {
			errs = append(errs, field.Invalid(path.Index(i).Child("type"), list[i].Type, `there may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		if list[i].Status != metav1.ConditionTrue {
			errs = append(errs, field.NotSupported(path.Index(i).Child("status"), list[i].Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	return errs
}

func sameCertificate(status, old *certificatesv1.PodCertificateRequestStatus, path *field.Path) field.ErrorList {
	errs := apivalidation.ValidateImmutableField(status.CertificateChain, old.CertificateChain, path.Child("certificateChain"))
	for _, t := range times(status, old) {
		if !equality.Semantic.DeepEqual(t.is, t.was) {
			errs = append(errs, field.Invalid(path.Child(t.name), t.is, apivalidation.FieldImmutableErrorMsg))
		}
	}
	return errs
}

func noCertificate(status *certificatesv1.PodCertificateRequestStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	const why = `may only be set together with a condition of type "Issued"`
	if status.CertificateChain != "" {
		errs = append(errs, field.Forbidden(path.Child("certificateChain"), why))
	}
	for _, t := range times(status, status) {
		if t.is != nil {
			errs = append(errs, field.Forbidden(path.Child(t.name), why))
		}
	}
	return errs
}

type timeField struct {
	name    string
	is, was *metav1.Time
}

func times(status, old *certificatesv1.PodCertificateRequestStatus) []timeField {
	return []timeField{
		{"notBefore", status.NotBefore, old.NotBefore},
		{"beginRefreshAt", status.BeginRefreshAt, old.BeginRefreshAt},
		{"notAfter", status.NotAfter, old.NotAfter},
	}
}

// validateIssued checks the certificate against what was asked, and the times against the certificate.
func validateIssued(obj *pcr, path *field.Path) field.ErrorList {
	status := &obj.Status
	var errs field.ErrorList
	for _, t := range times(status, status) {
		if t.is == nil {
			errs = append(errs, field.Required(path.Child(t.name), "must be set together with certificateChain"))
		}
	}
	chain, err := parseChain(status.CertificateChain)
	if err != nil {
		errs = append(errs, field.Invalid(path.Child("certificateChain"), "<value omitted>", err.Error()))
	}
	if len(errs) > 0 {
		return errs
	}
	errs = append(errs, validateLeaf(obj, chain[0], path.Child("certificateChain"))...)
	bad := func(name string, value *metav1.Time, msg string) {
		errs = append(errs, field.Invalid(path.Child(name), value, msg))
	}
	begin, refresh, end := status.NotBefore.Time, status.BeginRefreshAt.Time, status.NotAfter.Time
	if !begin.Equal(chain[0].NotBefore) {
		bad("notBefore", status.NotBefore, "must be set to the NotBefore time encoded in the leaf certificate")
	}
	if d := now().Sub(begin).Abs(); d > maxSkew {
		bad("notBefore", status.NotBefore, "must be set to within 5 minutes of kube-apiserver's current time")
	}
	if !end.Equal(chain[0].NotAfter) {
		bad("notAfter", status.NotAfter, "must be set to the NotAfter time encoded in the leaf certificate")
	}
	life := end.Sub(begin)
	if life < minSeconds*time.Second {
		bad("notAfter", status.NotAfter, "lifetime must be at least one hour")
	}
	if most := obj.Spec.MaxExpirationSeconds; most != nil && life > time.Duration(*most)*time.Second {
		bad("notAfter", status.NotAfter, fmt.Sprintf("lifetime must not be longer than spec.maxExpirationSeconds (%d)", *most))
	}
	if refresh.Before(begin.Add(refreshMargin)) {
		bad("beginRefreshAt", status.BeginRefreshAt, "must be at least 10 minutes after status.notBefore")
	}
	if refresh.After(end.Add(-refreshMargin)) {
		bad("beginRefreshAt", status.BeginRefreshAt, "must be at least 10 minutes before status.notAfter")
	}
	return errs
}

func parseChain(text string) ([]*x509.Certificate, error) {
	if len(text) > maxChain {
		return nil, fmt.Errorf("may not be more than %d bytes", maxChain)
	}
	var chain []*x509.Certificate
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("entry %d does not parse as X.509: %w", len(chain), err)
		}
		chain = append(chain, cert)
	}
	if len(chain) == 0 {
		return nil, fmt.Errorf("must contain at least one certificate")
	}
	return chain, nil
}

// validateLeaf checks that the certificate is for the key that was asked about.
func validateLeaf(obj *pcr, leaf *x509.Certificate, path *field.Path) field.ErrorList {
	request, err := x509.ParseCertificateRequest(obj.Spec.StubPKCS10Request)
	if err != nil {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf("cannot be compared with the request: %v", err))}
	}
	// Every public key of the standard library has Equal.
	key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(request.PublicKey) {
		return field.ErrorList{field.Invalid(path, "<value omitted>", "the leaf certificate's public key must be that of spec.stubPKCS10Request")}
	}
	return nil
}
