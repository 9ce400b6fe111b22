// Package secret declares core/v1 Secret.
package secret

import (
	"context"
	"maps"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Secret](resource.Declaration{
		GVK:        corev1.SchemeGroupVersion.WithKind("Secret"),
		Plural:     "secrets",
		Namespaced: true,
	}, func() runtime.Object { return &corev1.SecretList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.Secret]       = kind{}
	_ resource.UpdatePreparer[*corev1.Secret]  = kind{}
	_ resource.Validator[*corev1.Secret]       = kind{}
	_ resource.UpdateValidator[*corev1.Secret] = kind{}
	_ resource.Selectable[*corev1.Secret]      = kind{}
	_ resource.Printer[*corev1.Secret]         = kind{}
)

// Default moves the write-only stringData into data, where it wins, and types the untyped as Opaque.
func (kind) Default(obj *corev1.Secret) {
	if len(obj.StringData) > 0 {
		// Not in place: the decoded map may be shared with another object.
		data := maps.Clone(obj.Data)
		if data == nil {
			data = make(map[string][]byte, len(obj.StringData))
		}
		for key, value := range obj.StringData {
			data[key] = []byte(value)
		}
		obj.Data = data
	}
	obj.StringData = nil
	if obj.Type == "" {
		obj.Type = corev1.SecretTypeOpaque
	}
}

// PrepareForUpdate keeps the type of an update that names none.
func (kind) PrepareForUpdate(_ context.Context, obj, old *corev1.Secret) {
	if obj.Type == "" {
		obj.Type = old.Type
	}
}

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *corev1.Secret) fields.Set {
	return fields.Set{"type": string(obj.Type)}
}

// Columns are those of `kubectl get secrets`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := corev1.Secret{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Type", doc["type"]),
		table.Text("Data", doc["data"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.Secret) ([]any, error) {
	return []any{obj.Name, string(obj.Type), int64(len(obj.Data)), table.Since(obj.CreationTimestamp)}, nil
}
