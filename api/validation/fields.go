package validation

import (
	"reflect"
	"slices"
	"unicode"
	"unicode/utf8"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Words of errors that many kinds share.
const (
	NotPositive = "must be greater than zero"
	NotInteger  = "must be an integer"
	Negative    = "must be greater than or equal to 0"
	Immutable   = "field is immutable"
	FileMode    = "must be a number between 0 and 0777 (octal), both inclusive"
)

// Messages turns the messages that the checks of apimachinery return for value into errors at path.
func Messages[T any](msgs []string, value T, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range msgs {
		errs = append(errs, field.Invalid(path, value, msg))
	}
	return errs
}

// Enum checks that value is one of supported and not empty.
func Enum[T ~string](value T, path *field.Path, supported ...T) field.ErrorList {
	if value == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	return Supported(value, path, supported...)
}

// Supported checks that value is one of supported.
func Supported[T ~string](value T, path *field.Path, supported ...T) field.ErrorList {
	if slices.Contains(supported, value) {
		return nil
	}
	return field.ErrorList{field.NotSupported(path, value, supported)}
}

// OptionalEnum is Supported for a pointer; nil passes.
func OptionalEnum[T ~string](value *T, path *field.Path, supported ...T) field.ErrorList {
	if value == nil {
		return nil
	}
	return Supported(*value, path, supported...)
}

// Mode checks the permission bits of a file; nil passes.
func Mode(mode *int32, path *field.Path) field.ErrorList {
	if mode == nil || (*mode >= 0 && *mode <= 0o777) {
		return nil
	}
	return field.ErrorList{field.Invalid(path, *mode, FileMode)}
}

// OnlyFields forbids, with detail, every field of the struct v that is set and not among allowed, which are named as in
// Go. A field that is added to the type later is forbidden until somebody has thought about it.
func OnlyFields(v any, path *field.Path, detail string, allowed ...string) field.ErrorList {
	var errs field.ErrorList
	value := reflect.ValueOf(v)
	for i := range value.NumField() {
		name := value.Type().Field(i).Name
		if value.Field(i).IsZero() || slices.Contains(allowed, name) {
			continue
		}
		r, n := utf8.DecodeRuneInString(name)
		errs = append(errs, field.Forbidden(path.Child(string(unicode.ToLower(r))+name[n:]), detail))
	}
	return errs
}
