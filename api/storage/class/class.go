// Package class checks what classes of storage and of volume attributes have in common.
package class

import (
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"

	v "github.com/peapod/peapod/api/validation"
)

const (
	maxParameters     = 512
	maxParametersSize = 256 << 10
)

// ValidateDriver checks the name of who makes or changes the volumes of the class.
func ValidateDriver(name string, path *field.Path) field.ErrorList {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return v.QualifiedName(strings.ToLower(name), path)
}

// ValidateParameters checks what the driver is told, which means nothing to anybody else.
func ValidateParameters(parameters map[string]string, path *field.Path) field.ErrorList {
	if len(parameters) > maxParameters {
		return field.ErrorList{field.TooLong(path, "", maxParameters)}
	}
	var errs field.ErrorList
	size := 0
	for key, value := range parameters {
		if key == "" {
			errs = append(errs, field.Invalid(path, key, "field can not be empty."))
		}
		size += len(key) + len(value)
	}
	if size > maxParametersSize {
		errs = append(errs, field.TooLong(path, "", maxParametersSize))
	}
	return errs
}
