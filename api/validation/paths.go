package validation

import (
	"path"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// NoBacksteps checks that no element of the file path target is "..".
func NoBacksteps(target string, p *field.Path) field.ErrorList {
	if slices.Contains(strings.Split(target, "/"), "..") {
		return field.ErrorList{field.Invalid(p, target, "must not contain '..'")}
	}
	return nil
}

// DescendingPath checks that target is relative and nowhere steps back.
func DescendingPath(target string, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	if path.IsAbs(target) {
		errs = append(errs, field.Invalid(p, target, "must be a relative path"))
	}
	return append(errs, NoBacksteps(target, p)...)
}

// NonReservedPath is DescendingPath for a path whose first element must not begin with "..": those names are the ones
// that files written atomically use.
func NonReservedPath(target string, p *field.Path) field.ErrorList {
	errs := DescendingPath(target, p)
	if strings.HasPrefix(target, "..") && !strings.HasPrefix(target, "../") {
		errs = append(errs, field.Invalid(p, target, "must not start with '..'"))
	}
	return errs
}
