package podspec

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// Bounds of the life of what is projected, in seconds.
const (
	minTokenSeconds       = 10 * 60
	maxTokenSeconds       = 1 << 32
	minCertificateSeconds = 60 * 60
	maxCertificateSeconds = 91 * 24 * 60 * 60
	// maxOwnCertificateSeconds bounds what the signers of Kubernetes itself give.
	maxOwnCertificateSeconds = 24 * 60 * 60
)

// projection checks the sources of one projected volume. paths are the files that they have asked for so far.
type projection struct {
	*checker
	path  *field.Path
	paths sets.Set[string]
	errs  field.ErrorList
}

func (c *checker) checkProjected(p *corev1.ProjectedVolumeSource, path *field.Path) field.ErrorList {
	in := &projection{checker: c, path: path, paths: sets.New[string]()}
	in.add(v.Mode(p.DefaultMode, path.Child("defaultMode")))
	for i := range p.Sources {
		s, at, n := &p.Sources[i], path.Child("sources").Index(i), 0
		if s.Secret != nil {
			n++
			in.items(s.Secret.Name, s.Secret.Items, at.Child("secret"))
		}
		if s.ConfigMap != nil {
			n++
			in.items(s.ConfigMap.Name, s.ConfigMap.Items, at.Child("configMap"))
		}
		if s.DownwardAPI != nil {
			n++
			for j := range s.DownwardAPI.Items {
				f := &s.DownwardAPI.Items[j]
				in.add(checkDownwardFile(f, at.Child("downwardAPI")))
				in.claim(f.Path, f.Path)
			}
		}
		if s.ServiceAccountToken != nil {
			n++
			in.token(s.ServiceAccountToken, at.Child("serviceAccountToken"))
		}
		if s.ClusterTrustBundle != nil {
			n++
			in.trustBundle(s.ClusterTrustBundle, at.Child("clusterTrustBundle"))
		}
		if s.PodCertificate != nil {
			n++
			in.certificate(s.PodCertificate, at.Child("podCertificate"))
		}
		if n > 1 {
			in.add(field.ErrorList{field.Forbidden(at, "may not specify more than 1 volume type per source")})
		}
	}
	return in.errs
}

func (in *projection) add(errs field.ErrorList) { in.errs = append(in.errs, errs...) }

// claim takes down that a file is at path; value stands for whoever wanted it if somebody else did before.
func (in *projection) claim(path, value string) {
	if path == "" {
		return
	}
	if in.paths.Has(path) {
		in.add(field.ErrorList{field.Invalid(in.path, value, "conflicting duplicate paths")})
	}
	in.paths.Insert(path)
}

func (in *projection) items(name string, items []corev1.KeyToPath, at *field.Path) {
	in.add(v.Required(name, at.Child("name")))
	in.add(checkItems(items, at.Child("items")))
	for _, item := range items {
		in.claim(item.Path, name)
	}
}

func (in *projection) token(t *corev1.ServiceAccountTokenProjection, at *field.Path) {
	if s := t.ExpirationSeconds; s != nil && *s < minTokenSeconds {
		in.add(field.ErrorList{field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration less than 10 minutes")})
	} else if s != nil && *s > maxTokenSeconds {
		in.add(field.ErrorList{field.Invalid(at.Child("expirationSeconds"), *s, "may not specify a duration larger than 2^32 seconds")})
	}
	// These are at the volume rather than at the source, as they always were.
	if t.Path == "" {
		in.add(field.ErrorList{field.Required(in.path.Child("path"), "")})
	} else if !in.tolerated.tokenPaths {
		in.add(v.NonReservedPath(t.Path, in.path.Child("path")))
	}
}

func (in *projection) trustBundle(b *corev1.ClusterTrustBundleProjection, at *field.Path) {
	switch {
	case b.Name != nil && b.SignerName != nil:
		in.add(field.ErrorList{field.Invalid(at, b, "only one of name and signerName may be used")})
	case b.Name != nil:
		if *b.Name == "" {
			in.add(field.ErrorList{field.Required(at.Child("name"), "must be a valid object name")})
		}
		for _, msg := range trustBundleName(*b.Name) {
			in.add(field.ErrorList{field.Invalid(at.Child("name"), *b.Name, "not a valid clustertrustbundlename: "+msg)})
		}
		if b.LabelSelector != nil {
			in.add(field.ErrorList{field.Invalid(at.Child("labelSelector"), b.LabelSelector, "labelSelector must be unset if name is specified")})
		}
	case b.SignerName != nil:
		if *b.SignerName == "" {
			in.add(field.ErrorList{field.Required(at.Child("signerName"), "must be a valid signer name")})
		}
		in.add(v.SignerName(*b.SignerName, at.Child("signerName")))
		in.add(v.LabelSelector(b.LabelSelector, false, at.Child("labelSelector")))
	default:
		in.add(field.ErrorList{field.Required(at, "either name or signerName must be specified")})
	}
	in.add(v.Required(b.Path, at.Child("path")))
	in.add(v.NonReservedPath(b.Path, at.Child("path")))
	in.claim(b.Path, b.Path)
}

// trustBundleName checks the name of a ClusterTrustBundle, which begins with that of its signer if it has one:
// example.com:signer:name.
func trustBundleName(name string) []string {
	if i := strings.LastIndex(name, ":"); i >= 0 {
		name = name[i+1:]
	}
	return apivalidation.NameIsDNSSubdomain(name, false)
}

func (in *projection) certificate(p *corev1.PodCertificateProjection, at *field.Path) {
	in.add(v.SignerName(p.SignerName, at.Child("signerName")))
	in.add(v.Supported(p.KeyType, at.Child("keyType"), "RSA3072", "RSA4096", "ECDSAP256", "ECDSAP384", "ECDSAP521", "ED25519"))
	if s := p.MaxExpirationSeconds; s != nil {
		seconds := at.Child("maxExpirationSeconds")
		domain, _, _ := strings.Cut(p.SignerName, "/")
		own := domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io")
		switch {
		case *s < minCertificateSeconds:
			in.add(field.ErrorList{field.Invalid(seconds, *s, "if provided, maxExpirationSeconds must be >= 3600")})
		case own && *s > maxOwnCertificateSeconds:
			in.add(field.ErrorList{field.Invalid(seconds, *s, "if provided, maxExpirationSeconds must be <= 86400")})
		case *s > maxCertificateSeconds:
			in.add(field.ErrorList{field.Invalid(seconds, *s, "if provided, maxExpirationSeconds must be <= 7862400")})
		}
	}
	if p.CredentialBundlePath == "" && p.KeyPath == "" && p.CertificateChainPath == "" {
		in.add(field.ErrorList{field.Required(at, "specify at least one of credentialBundlePath, keyPath, and certificateChainPath")})
	}
	for _, f := range []struct{ name, path string }{
		{"credentialBundlePath", p.CredentialBundlePath},
		{"keyPath", p.KeyPath},
		{"certificateChainPath", p.CertificateChainPath},
	} {
		if f.path != "" {
			in.add(v.NonReservedPath(f.path, at.Child(f.name)))
			in.claim(f.path, f.path)
		}
	}
	annotations := at.Child("userAnnotations")
	in.add(apivalidation.ValidateAnnotations(p.UserAnnotations, annotations))
	for key := range p.UserAnnotations {
		if !strings.Contains(key, "/") {
			in.add(field.ErrorList{field.Invalid(annotations.Key(key), key, "must be a domain-prefixed key (such as \"acme.io/foo\")")})
		}
	}
}
