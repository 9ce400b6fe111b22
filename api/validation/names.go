package validation

import (
	"fmt"
	"strings"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DNSLabel checks a DNS-1123 label.
func DNSLabel(value string, path *field.Path) field.ErrorList {
	return Messages(validation.IsDNS1123Label(value), value, path)
}

// DNSSubdomain checks a DNS-1123 subdomain.
func DNSSubdomain(value string, path *field.Path) field.ErrorList {
	return Messages(validation.IsDNS1123Subdomain(value), value, path)
}

// RequiredDNSLabel is DNSLabel for a field that must be set.
func RequiredDNSLabel(value string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return DNSLabel(value, path)
}

// Required checks that value is not empty.
func Required(value string, path *field.Path) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return nil
}

// QualifiedName checks a name with an optional DNS prefix, such as example.com/gpu.
func QualifiedName(value string, path *field.Path) field.ErrorList {
	return Messages(validation.IsQualifiedName(value), value, path)
}

// CSIDriverName checks the name of a storage driver.
func CSIDriverName(name string, path *field.Path) field.ErrorList {
	errs := Required(name, path)
	if len(name) > 63 {
		errs = append(errs, field.TooLong(path, "", 63))
	}
	return append(errs, Messages(validation.IsDNS1123Subdomain(strings.ToLower(name)), name, path)...)
}

// ConfigKey checks a key of a ConfigMap or Secret, and that there is one.
func ConfigKey(key string, path *field.Path) field.ErrorList {
	if key == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Messages(validation.IsConfigMapKey(key), key, path)
}

// ObjectName checks the name of an object of the kinds whose names are DNS subdomains, which most are.
func ObjectName(name string, path *field.Path) field.ErrorList {
	return Messages(apivalidation.NameIsDNSSubdomain(name, false), name, path)
}

// SignerName checks the name of a certificate signer, example.com/path, whose path has room for the namespace and name of
// an object.
func SignerName(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	domain, tail, _ := strings.Cut(name, "/")
	if strings.Count(name, "/") != 1 {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	var errs field.ErrorList
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		errs = append(errs, field.TooLong(path, "", validation.DNS1123SubdomainMaxLength))
	}
	errs = append(errs, firstBadLabel(domain, validation.IsDNS1123Label, path)...)
	if !strings.Contains(domain, ".") {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, firstBadLabel(tail, validation.IsDNS1123Subdomain, path)...)
	const maxTail = validation.DNS1123LabelMaxLength + 1 + validation.DNS1123SubdomainMaxLength
	const maxName = validation.DNS1123SubdomainMaxLength + 1 + maxTail
	if len(name) > maxName {
		errs = append(errs, field.TooLong(path, "", maxName))
	}
	return errs
}

// firstBadLabel reports the first of value's dot-separated labels that check finds fault with.
func firstBadLabel(value string, check func(string) []string, path *field.Path) field.ErrorList {
	for label := range strings.SplitSeq(value, ".") {
		var errs field.ErrorList
		for _, msg := range check(label) {
			errs = append(errs, field.Invalid(path, value, fmt.Sprintf("validating label %q: %s", label, msg)))
		}
		if len(errs) > 0 {
			return errs
		}
	}
	return nil
}
