// Package configmap declares core/v1 ConfigMap.
package configmap

import (
	"bytes"
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.ConfigMap](resource.Declaration{
		GVK:        corev1.SchemeGroupVersion.WithKind("ConfigMap"),
		Plural:     "configmaps",
		ShortNames: []string{"cm"},
		Namespaced: true,
	}, func() runtime.Object { return &corev1.ConfigMapList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*corev1.ConfigMap]       = kind{}
	_ resource.UpdateValidator[*corev1.ConfigMap] = kind{}
	_ resource.Printer[*corev1.ConfigMap]         = kind{}
)

// maxSize bounds the bytes of all values of one ConfigMap together.
const maxSize = corev1.MaxSecretSize

// Validate checks keys, that no key is in both maps, and the size.
func (kind) Validate(_ context.Context, obj *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for key, value := range obj.Data {
		path := field.NewPath("data").Key(key)
		errs = append(errs, validateKey(key, path)...)
		if _, twice := obj.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(value)
	}
	for key, value := range obj.BinaryData {
		errs = append(errs, validateKey(key, field.NewPath("binaryData").Key(key))...)
		size += len(value)
	}
	if size > maxSize {
		// The empty path means the object as a whole.
		errs = append(errs, field.TooLong(field.NewPath(""), "", maxSize))
	}
	return errs
}

func validateKey(key string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, msg := range validation.IsConfigMapKey(key) {
		errs = append(errs, field.Invalid(path, key, msg))
	}
	return errs
}

// ValidateUpdate holds an immutable ConfigMap to what it was.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	if old.Immutable != nil && *old.Immutable {
		const msg = "field is immutable when `immutable` is set"
		if obj.Immutable == nil || !*obj.Immutable {
			errs = append(errs, field.Forbidden(field.NewPath("immutable"), msg))
		}
		if !maps.Equal(obj.Data, old.Data) {
			errs = append(errs, field.Forbidden(field.NewPath("data"), msg))
		}
		if !maps.EqualFunc(obj.BinaryData, old.BinaryData, bytes.Equal) {
			errs = append(errs, field.Forbidden(field.NewPath("binaryData"), msg))
		}
	}
	return append(errs, k.Validate(ctx, obj)...)
}

// Columns are those of `kubectl get configmaps`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Data", corev1.ConfigMap{}.SwaggerDoc()["data"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.ConfigMap) ([]any, error) {
	return []any{obj.Name, int64(len(obj.Data) + len(obj.BinaryData)), table.Since(obj.CreationTimestamp)}, nil
}
