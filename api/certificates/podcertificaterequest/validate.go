package podcertificaterequest

import (
	"context"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// Lives of certificates, in seconds.
const (
	defaultSeconds = 24 * 3600
	minSeconds     = 3600
	maxSeconds     = 91 * 24 * 3600
	// maxOwnSeconds is for Kubernetes' own signers.
	maxOwnSeconds = 24 * 3600
)

const (
	maxUID     = 128
	maxRequest = 10 * 1024
	// maxAnnotations bounds what the Pod's author tells the signer, in bytes.
	maxAnnotations = 256 * 1024
)

// Validate checks a new request.
func (kind) Validate(_ context.Context, obj *pcr) field.ErrorList {
	spec, path := &obj.Spec, field.NewPath("spec")
	errs := v.SignerName(spec.SignerName, path.Child("signerName"))
	errs = append(errs, objectName(spec.PodName, path.Child("podName"))...)
	errs = append(errs, uid(spec.PodUID, path.Child("podUID"))...)
	errs = append(errs, objectName(spec.ServiceAccountName, path.Child("serviceAccountName"))...)
	errs = append(errs, uid(spec.ServiceAccountUID, path.Child("serviceAccountUID"))...)
	errs = append(errs, objectName(string(spec.NodeName), path.Child("nodeName"))...)
	errs = append(errs, uid(spec.NodeUID, path.Child("nodeUID"))...)
	if s := spec.MaxExpirationSeconds; s != nil {
		if most := longest(spec.SignerName); *s < minSeconds || *s > most {
			errs = append(errs, field.Invalid(path.Child("maxExpirationSeconds"), *s, fmt.Sprintf("must be in the range [%d, %d]", minSeconds, most)))
		}
	}
	errs = append(errs, validateRequest(spec.StubPKCS10Request, path.Child("stubPKCS10Request"))...)
	return append(errs, annotations(spec.UnverifiedUserAnnotations, path.Child("unverifiedUserAnnotations"))...)
}

// ValidateUpdate lets metadata change only.
func (kind) ValidateUpdate(_ context.Context, obj, old *pcr) field.ErrorList {
	return apivalidation.ValidateImmutableField(obj.Spec, old.Spec, field.NewPath("spec"))
}

// longest is for how long a signer's certificates may live.
func longest(signer string) int32 {
	domain, _, _ := strings.Cut(signer, "/")
	if domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") {
		return maxOwnSeconds
	}
	return maxSeconds
}

func objectName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "must not be empty")}
	}
	return v.ObjectName(name, path)
}

func uid(id types.UID, path *field.Path) field.ErrorList {
	switch {
	case id == "":
		return field.ErrorList{field.Required(path, "must not be empty")}
	case len(id) > maxUID:
		return field.ErrorList{field.TooLong(path, "", maxUID)}
	}
	return nil
}

func annotations(list map[string]string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for key, value := range list {
		size += len(key) + len(value)
		// Annotations are checked without regard to case.
		errs = append(errs, v.QualifiedName(strings.ToLower(key), path.Key(key))...)
		if !strings.Contains(key, "/") {
			errs = append(errs, field.Invalid(path.Key(key), key, "must be a domain-prefixed key (such as \"acme.io/foo\")"))
		}
	}
	if size > maxAnnotations {
		errs = append(errs, field.TooLong(path, "", maxAnnotations))
	}
	return errs
}

// validateRequest takes a request in DER that is signed by the key that it is about.
func validateRequest(der []byte, path *field.Path) field.ErrorList {
	invalid := func(format string, args ...any) field.ErrorList {
		return field.ErrorList{field.Invalid(path, "<value omitted>", fmt.Sprintf(format, args...))}
	}
	switch {
	case len(der) == 0:
		return field.ErrorList{field.Required(path, "must not be empty")}
	case len(der) > maxRequest:
		return field.ErrorList{field.TooLong(path, "", maxRequest)}
	}
	request, err := x509.ParseCertificateRequest(der)
	if err != nil {
		return invalid("must be a valid PKCS#10 certificate signing request: %v", err)
	}
	switch key := request.PublicKey.(type) {
	case ed25519.PublicKey:
	case *ecdsa.PublicKey:
		if !slices.Contains([]elliptic.Curve{elliptic.P256(), elliptic.P384(), elliptic.P521()}, key.Curve) {
			return invalid("elliptic public keys must use curve P256, P384, or P521")
		}
	case *rsa.PublicKey:
		if bits := key.N.BitLen(); bits != 3072 && bits != 4096 {
			return invalid("RSA keys must have modulus size 3072 or 4096")
		}
	default:
		return invalid("unknown public key type; supported types are Ed25519, ECDSA, and RSA")
	}
	if err := request.CheckSignature(); err != nil {
		return invalid("could not verify the signature by the key of the request: %v", err)
	}
	return nil
}
