package device

import (
	"fmt"
	"strings"

	"github.com/google/uuid"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

// Driver checks the name of a driver, which is formed as that of a storage driver.
func Driver(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return v.CSIDriverName(name, path)
}

// Pool checks the name of a pool: subdomains with slashes between them.
func Pool(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	if len(name) > resourcev1.PoolNameMaxLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.PoolNameMaxLength))
	}
	for part := range strings.SplitSeq(name, "/") {
		errs = append(errs, v.DNSSubdomain(part, path)...)
	}
	return errs
}

// QualifiedName checks the name of an attribute or of a capacity: a C identifier, with a domain before it or without.
func QualifiedName(name *resourcev1.QualifiedName, path *field.Path) field.ErrorList {
	domain, id, qualified := strings.Cut(string(*name), "/")
	switch {
	case !qualified:
		return identifier(domain, path)
	case strings.Contains(id, "/"):
		return field.ErrorList{field.Invalid(path, string(*name), "must not contain more than one slash")}
	}
	var errs field.ErrorList
	if domain == "" {
		errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
	} else {
		errs = append(errs, Driver(domain, path)...)
	}
	if id == "" {
		return append(errs, field.Invalid(path, "", "the name must not be empty"))
	}
	return append(errs, identifier(id, path)...)
}

// FullyQualifiedName is QualifiedName for a name that must have its domain.
func FullyQualifiedName(name resourcev1.FullyQualifiedName, path *field.Path) field.ErrorList {
	short := resourcev1.QualifiedName(name)
	errs := QualifiedName(&short, path)
	if !strings.Contains(string(name), "/") {
		errs = append(errs, field.Invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

// LongestName is the length of the longest qualified name, in bytes.
const LongestName = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength

func identifier(id string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(id) > resourcev1.DeviceMaxIDLength {
		errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
	}
	return append(errs, v.Messages(content.IsCIdentifier(id), id, path)...)
}

// ShareID checks the UID of a share of a device.
func ShareID(id string, path *field.Path) field.ErrorList {
	if err := uuid.Validate(id); err != nil {
		return field.ErrorList{field.Invalid(path, id, fmt.Sprintf("error validating uid: %v", err))}
	}
	const length = 36 // uuid.Validate takes other forms too
	if len(id) != length || id != strings.ToLower(id) {
		return field.ErrorList{field.Invalid(path, id,
			"uid must be in RFC 4122 normalized form, `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx` with lowercase hexadecimal characters")}
	}
	return nil
}
