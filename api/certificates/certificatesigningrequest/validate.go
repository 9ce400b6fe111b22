package certificatesigningrequest

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
	csrs "github.com/peapod/peapod/internal/csr"
)

// leastSeconds is the shortest life that may be asked for.
const leastSeconds = 600

var usages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCRLSign, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth,
	certificatesv1.UsageCodeSigning, certificatesv1.UsageContentCommitment, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
	certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

// Validate checks a new request.
func (kind) Validate(_ context.Context, obj *csr) field.ErrorList {
	spec, path := &obj.Spec, field.NewPath("spec")
	errs := validateRequest(spec.Request, path.Child("request"))
	if len(spec.Usages) == 0 {
		errs = append(errs, field.Required(path.Child("usages"), ""))
	}
	for i, u := range spec.Usages {
		at := path.Child("usages").Index(i)
		switch {
		case !slices.Contains(usages, u):
			errs = append(errs, field.NotSupported(at, u, usages))
		case slices.Contains(spec.Usages[:i], u):
			errs = append(errs, field.Duplicate(at, u))
		}
	}
	errs = append(errs, validateSigner(spec.SignerName, path.Child("signerName"))...)
	if s := spec.ExpirationSeconds; s != nil && *s < leastSeconds {
		errs = append(errs, field.Invalid(path.Child("expirationSeconds"), *s, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	return errs
}

func validateRequest(content []byte, path *field.Path) field.ErrorList {
	parsed, err := csrs.Parse(content)
	if err == nil {
		err = parsed.CheckSignature()
	}
	if err != nil {
		return field.ErrorList{field.Invalid(path, content, err.Error())}
	}
	return nil
}

// legacyUnknown is what requests of v1beta1 had that named no signer.
const legacyUnknown = "kubernetes.io/legacy-unknown"

func validateSigner(name string, path *field.Path) field.ErrorList {
	if name == legacyUnknown {
		return field.ErrorList{field.Invalid(path, name, "the legacy signerName is not allowed via this API version")}
	}
	return v.SignerName(name, path)
}

// ValidateUpdate checks what a write may do to conditions and certificate: nothing.
func (kind) ValidateUpdate(_ context.Context, obj, old *csr) field.ErrorList {
	return validateChange(obj, old)
}

// ValidateStatusUpdate lets a signer put the certificate in, once, or say that it failed.
func (kind) ValidateStatusUpdate(_ context.Context, obj, old *csr) field.ErrorList {
	errs := validateChange(obj, old, certificatesv1.CertificateFailed)
	path := field.NewPath("status", "certificate")
	if !bytes.Equal(obj.Status.Certificate, old.Status.Certificate) {
		if len(old.Status.Certificate) > 0 {
			return append(errs, field.Forbidden(path, "existing certificate content may not be modified"))
		}
		if err := checkCertificates(obj.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(path, "<certificate data>", err.Error()))
		}
	}
	return errs
}

// validateChange checks the conditions: those that are decided stay, and only those of the types in settable may come.
func validateChange(obj, old *csr, settable ...certificatesv1.RequestConditionType) field.ErrorList {
	path := field.NewPath("status", "conditions")
	errs := validateConditions(obj.Status.Conditions, path)
	count := func(o *csr, t certificatesv1.RequestConditionType) (n int) {
		for _, c := range o.Status.Conditions {
			if c.Type == t {
				n++
			}
		}
		return n
	}
	for _, t := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		was, is := count(old, t), count(obj, t)
		if is < was {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", t)))
		}
		if is > was && !slices.Contains(settable, t) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", t)))
		}
	}
	return errs
}

func validateConditions(list []condition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range list {
		at := path.Index(i)
		known := decision(c.Type) || c.Type == certificatesv1.CertificateFailed
		switch {
		case c.Type == "":
			errs = append(errs, field.Required(at.Child("type"), ""))
		case seen[c.Type]:
			errs = append(errs, field.Duplicate(at.Child("type"), c.Type))
		}
		seen[c.Type] = true
		switch {
		case c.Status == "":
			errs = append(errs, field.Required(at.Child("status"), ""))
		case known && c.Status != corev1.ConditionTrue:
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status, []corev1.ConditionStatus{corev1.ConditionTrue}))
		case !slices.Contains([]corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}, c.Status):
			errs = append(errs, field.NotSupported(at.Child("status"), c.Status,
				[]corev1.ConditionStatus{corev1.ConditionTrue, corev1.ConditionFalse, corev1.ConditionUnknown}))
		}
	}
	if seen[certificatesv1.CertificateApproved] && seen[certificatesv1.CertificateDenied] {
		errs = append(errs, field.Invalid(path, "", "Approved and Denied conditions are mutually exclusive"))
	}
	return errs
}

// checkCertificates takes one or more certificates in PEM.
func checkCertificates(content []byte) error {
	n := 0
	for block, rest := pem.Decode(content); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		if _, err := x509.ParseCertificates(block.Bytes); err != nil {
			return err
		}
		n++
	}
	if n == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}
