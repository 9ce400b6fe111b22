package podcertificaterequest

import (
	"context"
	"crypto"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/mail"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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

var (
	statusPath     = field.NewPath("status")
	conditionsPath = statusPath.Child("conditions")
	chainPath      = statusPath.Child("certificateChain")
)

// now is replaced in tests.
var now = time.Now

// ValidateStatusUpdate lets a signer end a request, once: with a certificate, or with a denial or failure and none.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *pcr) field.ErrorList {
	if errs := validateConditions(obj.Status.Conditions); len(errs) > 0 {
		return errs // what remains depends on how it ended
	}
	end := outcome(obj)
	switch {
	case outcome(old) != nil:
		return same(&obj.Status, &old.Status, "immutable after PodCertificateRequest is issued, denied, or failed")
	case end == nil:
		return same(&obj.Status, &old.Status, `status is immutable unless transitioning to "Issued", "Denied", or "Failed"`)
	case end.Type != certificatesv1.PodCertificateRequestConditionTypeIssued:
		alone := certificatesv1.PodCertificateRequestStatus{Conditions: obj.Status.Conditions}
		return same(&obj.Status, &alone, "non-condition status fields must be empty when denying or failing the PodCertificateRequest")
	}
	return validateIssued(obj)
}

func same(is, want *certificatesv1.PodCertificateRequestStatus, why string) field.ErrorList {
	if !equality.Semantic.DeepEqual(is, want) {
		return field.ErrorList{field.Invalid(statusPath, *is, why)}
	}
	return nil
}

// validateConditions takes one condition at most, which ends the request.
func validateConditions(list []metav1.Condition) field.ErrorList {
	var errs field.ErrorList
	ends := []string{
		certificatesv1.PodCertificateRequestConditionTypeIssued,
		certificatesv1.PodCertificateRequestConditionTypeDenied,
		certificatesv1.PodCertificateRequestConditionTypeFailed,
	}
	n := 0
	for i, c := range list {
		at := conditionsPath.Index(i)
		if !final(c.Type) {
			errs = append(errs, field.NotSupported(at.Child("type"), c.Type, ends))
			continue
		}
		if n++; n > 1 {
			errs = append(errs, field.Invalid(at.Child("type"), c.Type, `There may be at most one condition with type "Issued", "Denied", or "Failed"`))
		}
		if c.Status != metav1.ConditionTrue {
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []metav1.ConditionStatus{metav1.ConditionTrue}))
		}
	}
	return append(errs, metav1validation.ValidateConditions(list, conditionsPath)...)
}

// validateIssued checks the certificate against what was asked, and the times against the certificate. It ends with the first
// thing that is wrong, but for what the certificate may not hold.
func validateIssued(obj *pcr) field.ErrorList {
	status := &obj.Status
	if len(status.CertificateChain) > maxChain {
		return field.ErrorList{field.TooLong(chainPath, "", maxChain)}
	}
	leaf, why := parseChain(status.CertificateChain)
	if why == "" {
		why = strange(leaf)
	}
	if why == "" {
		why = notFor(leaf, obj.Spec.StubPKCS10Request)
	}
	if why != "" {
		return field.ErrorList{field.Invalid(chainPath, status.CertificateChain, why)}
	}
	if errs := missingTimes(status); len(errs) > 0 {
		return errs
	}
	return validateTimes(obj, leaf)
}

// parseChain returns the first certificate of the chain, or what is wrong with any of them.
func parseChain(text string) (leaf *x509.Certificate, why string) {
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return nil, "issued certificate chain must consist entirely of CERTIFICATE PEM blocks"
		}
		cert, err := x509.ParseCertificate(block.Bytes)
		switch {
		case err != nil && leaf == nil:
			return nil, "leaf certificate does not parse as valid X.509"
		case err != nil:
			return nil, "intermediate certificate does not parse as valid X.509"
		case leaf == nil:
			leaf = cert
		}
	}
	if leaf == nil {
		return nil, "issued certificate chain must contain at least one certificate"
	}
	return leaf, ""
}

// strange says which of the certificate's names is none.
func strange(leaf *x509.Certificate) string {
	for _, name := range leaf.DNSNames {
		switch {
		case name == "":
			return "leaf certificate should not contain empty DNSName"
		case strings.Contains(name, ".."):
			return "leaf certificate's DNSName should not contain '..'"
		case strings.HasPrefix(name, "."), strings.HasSuffix(name, "."):
			return "leaf certificate's DNSName should not start or end with '.'"
		}
	}
	for _, address := range leaf.EmailAddresses {
		if _, err := mail.ParseAddress(address); err != nil {
			return "leaf certificate should not contain invalid EmailAddress"
		}
	}
	return ""
}

// notFor says that the certificate is for another key than the one that was asked about.
func notFor(leaf *x509.Certificate, der []byte) string {
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return fmt.Sprintf("cannot be compared with spec.stubPKCS10Request: %v", err)
	}
	// Every public key of the standard library has Equal.
	key, ok := leaf.PublicKey.(interface{ Equal(crypto.PublicKey) bool })
	if !ok || !key.Equal(request.PublicKey) {
		return "leaf certificate was not issued to the requested public key"
	}
	return ""
}

func missingTimes(s *certificatesv1.PodCertificateRequestStatus) field.ErrorList {
	var errs field.ErrorList
	if s.NotBefore == nil {
		errs = append(errs, field.Required(statusPath.Child("notBefore"), "must be present and consistent with the issued certificate"))
	}
	if s.NotAfter == nil {
		errs = append(errs, field.Required(statusPath.Child("notAfter"), "must be present and consistent with the issued certificate"))
	}
	if s.BeginRefreshAt == nil {
		errs = append(errs, field.Required(statusPath.Child("beginRefreshAt"), "must be present and in the range [notbefore+10min, notafter-10min]"))
	}
	return errs
}

func validateTimes(obj *pcr, leaf *x509.Certificate) field.ErrorList {
	bad := func(name string, value any, why string) field.ErrorList {
		return field.ErrorList{field.Invalid(statusPath.Child(name), value, why)}
	}
	begin, refresh, end := obj.Status.NotBefore.Time, obj.Status.BeginRefreshAt.Time, obj.Status.NotAfter.Time
	life, most := leaf.NotAfter.Sub(leaf.NotBefore), obj.Spec.MaxExpirationSeconds
	switch {
	case !begin.Equal(leaf.NotBefore):
		return bad("notBefore", begin, "must be set to the NotBefore time encoded in the leaf certificate")
	case now().Sub(begin).Abs() > maxSkew:
		return bad("notBefore", begin, "must be set to within 5 minutes of kube-apiserver's current time")
	case !end.Equal(leaf.NotAfter):
		return bad("notAfter", end, "must be set to the NotAfter time encoded in the leaf certificate")
	case life < minSeconds*time.Second:
		return bad("certificateChain", life, "leaf certificate lifetime must be >= 1 hour")
	case most != nil && life > time.Duration(*most)*time.Second:
		return bad("certificateChain", life, fmt.Sprintf("leaf certificate lifetime must be <= spec.maxExpirationSeconds (%d)", *most))
	case refresh.Before(begin.Add(refreshMargin)):
		return bad("beginRefreshAt", refresh, "must be at least 10 minutes after status.notBefore")
	case refresh.After(end.Add(-refreshMargin)):
		return bad("beginRefreshAt", refresh, "must be at least 10 minutes before status.notAfter")
	}
	return nil
}
