// Package clustertrustbundle declares certificates.k8s.io/v1 ClusterTrustBundle: trust anchors that the whole cluster may
// read. One that belongs to a signer carries the signer's name in its own (example.com/foo: example.com:foo:name); who may
// write it is checked by admission.
package clustertrustbundle

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[bundle](resource.Declaration{
		GVK:             certificatesv1.SchemeGroupVersion.WithKind("ClusterTrustBundle"),
		Plural:          "clustertrustbundles",
		VersionedUpdate: true,
	}, func() runtime.Object { return &certificatesv1.ClusterTrustBundleList{} }, kind{})
}

type kind struct{}

// bundle is short for the Go type.
type bundle = certificatesv1.ClusterTrustBundle

var (
	_ resource.Validator[*bundle]       = kind{}
	_ resource.UpdateValidator[*bundle] = kind{}
	_ resource.NameValidator            = kind{}
	_ resource.Selectable[*bundle]      = kind{}
	_ resource.Printer[*bundle]         = kind{}
)

// maxBundle bounds the trust anchors, in bytes.
const maxBundle = 1 << 20

// ValidateName takes every name: what it must be depends on the signer, which Validate knows.
func (kind) ValidateName(string, bool) []string { return nil }

// Validate checks a new bundle.
func (kind) Validate(_ context.Context, obj *bundle) field.ErrorList {
	return append(validateSigner(obj), validateAnchors(obj.Spec.TrustBundle, field.NewPath("spec", "trustBundle"))...)
}

// ValidateUpdate checks a change. Anchors that stay as they are were checked by the rules of their time.
func (kind) ValidateUpdate(_ context.Context, obj, old *bundle) field.ErrorList {
	errs := validateSigner(obj)
	errs = append(errs, apivalidation.ValidateImmutableField(obj.Spec.SignerName, old.Spec.SignerName, field.NewPath("spec", "signerName"))...)
	if obj.Spec.TrustBundle != old.Spec.TrustBundle {
		errs = append(errs, validateAnchors(obj.Spec.TrustBundle, field.NewPath("spec", "trustBundle"))...)
	}
	return errs
}

// validateSigner checks the name of the signer, and the bundle's name, which follows from it.
func validateSigner(obj *bundle) field.ErrorList {
	signer, name := obj.Spec.SignerName, obj.Name
	path := field.NewPath("metadata", "name")
	var errs field.ErrorList
	if signer == "" {
		if strings.Contains(name, ":") {
			return field.ErrorList{field.Invalid(path, name, "ClusterTrustBundle without signer name must not have \":\" in its name")}
		}
	} else {
		errs = v.SignerName(signer, field.NewPath("spec", "signerName"))
		prefix := strings.ReplaceAll(signer, "/", ":") + ":"
		rest, ok := strings.CutPrefix(name, prefix)
		if !ok {
			return append(errs, field.Invalid(path, name, fmt.Sprintf("ClusterTrustBundle for signerName %s must be named with prefix %s", signer, prefix)))
		}
		name = rest
	}
	for _, msg := range apivalidation.NameIsDNSSubdomain(name, false) {
		errs = append(errs, field.Invalid(path, obj.Name, msg))
	}
	return errs
}

// validateAnchors takes certificates of authorities in PEM, each once.
func validateAnchors(text string, path *field.Path) field.ErrorList {
	if len(text) > maxBundle {
		return field.ErrorList{field.TooLong(path, "", maxBundle)}
	}
	var errs field.ErrorList
	bad := func(format string, args ...any) {
		errs = append(errs, field.Invalid(path, "<value omitted>", fmt.Sprintf(format, args...)))
	}
	var order []string
	seen := map[string][]int{}
	i := 0
	for block, rest := pem.Decode([]byte(text)); block != nil; block, rest = pem.Decode(rest) {
		if msg := badAnchor(block); msg != "" {
			bad("entry %d %s", i, msg)
		} else {
			key := string(block.Bytes)
			if seen[key] == nil {
				order = append(order, key)
			}
			seen[key] = append(seen[key], i)
		}
		i++
	}
	if len(errs) > 0 {
		return errs // what is malformed is no duplicate, and not missing either
	}
	if len(order) == 0 {
		bad("at least one trust anchor must be provided")
	}
	for _, key := range order {
		if at := seen[key]; len(at) > 1 {
			bad("duplicate trust anchor (indices %v)", at)
		}
	}
	return errs
}

func badAnchor(block *pem.Block) string {
	if block.Type != "CERTIFICATE" {
		return "has bad block type: " + block.Type
	}
	if len(block.Headers) > 0 {
		return "has PEM block headers"
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	switch {
	case err != nil:
		return "does not parse as X.509"
	case !cert.IsCA:
		return "does not have the CA bit set"
	case !cert.BasicConstraintsValid:
		return "has invalid basic constraints"
	}
	return ""
}

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *bundle) fields.Set {
	return fields.Set{"spec.signerName": obj.Spec.SignerName}
}

// Columns are those of `kubectl get clustertrustbundles`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("SignerName", certificatesv1.ClusterTrustBundleSpec{}.SwaggerDoc()["signerName"]),
	}
}

// Row is one line of the table.
func (kind) Row(obj *bundle) ([]any, error) {
	signer := obj.Spec.SignerName
	if signer == "" {
		signer = "<none>"
	}
	return []any{obj.Name, signer}, nil
}
