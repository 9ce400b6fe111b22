// Package namespace declares core/v1 Namespace. A deleted Namespace stays, Terminating, until both its own finalizers
// (spec.finalizers, taken off through the finalize subresource once its content is gone) and metadata.finalizers are
// empty.
package namespace

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Namespace](resource.Declaration{
		GVK:          corev1.SchemeGroupVersion.WithKind("Namespace"),
		Plural:       "namespaces",
		ShortNames:   []string{"ns"},
		Status:       true,
		Subresources: []resource.Subresource{{Name: "finalize", Build: newFinalize}},
	}, func() runtime.Object { return &corev1.NamespaceList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.Namespace]       = kind{}
	_ resource.CreatePreparer[*corev1.Namespace]  = kind{}
	_ resource.UpdatePreparer[*corev1.Namespace]  = kind{}
	_ resource.Validator[*corev1.Namespace]       = kind{}
	_ resource.UpdateValidator[*corev1.Namespace] = kind{}
	_ resource.StatusValidator[*corev1.Namespace] = kind{}
	_ resource.NameValidator                      = kind{}
	_ resource.Deleter[*corev1.Namespace]         = kind{}
	_ resource.Selectable[*corev1.Namespace]      = kind{}
	_ resource.Printer[*corev1.Namespace]         = kind{}
)

// Default labels the Namespace with its name, so that selectors can name it.
func (kind) Default(obj *corev1.Namespace) {
	if obj.Name != "" {
		label(obj)
	}
}

func label(obj *corev1.Namespace) {
	if obj.Labels[corev1.LabelMetadataName] == obj.Name {
		return
	}
	labels := make(map[string]string, len(obj.Labels)+1)
	for k, v := range obj.Labels {
		labels[k] = v
	}
	labels[corev1.LabelMetadataName] = obj.Name
	obj.Labels = labels
}

// PrepareForCreate starts the Namespace Active, held by the finalizer that stands for its content. The label is set
// here too, since a generated name is not known when defaults are.
func (kind) PrepareForCreate(_ context.Context, obj *corev1.Namespace) {
	obj.Status = corev1.NamespaceStatus{Phase: corev1.NamespaceActive}
	if !slices.Contains(obj.Spec.Finalizers, corev1.FinalizerKubernetes) {
		obj.Spec.Finalizers = append(slices.Clip(obj.Spec.Finalizers), corev1.FinalizerKubernetes)
	}
	label(obj)
}

// PrepareForUpdate leaves the finalizers to the finalize subresource.
func (kind) PrepareForUpdate(_ context.Context, obj, old *corev1.Namespace) {
	obj.Spec.Finalizers = old.Spec.Finalizers
	obj.Status = old.Status
}

// ValidateName takes DNS labels: the name is part of host names.
func (kind) ValidateName(name string, prefix bool) []string {
	return apivalidation.NameIsDNSLabel(name, prefix)
}

// BeginDelete shows that the Namespace is on its way out.
func (kind) BeginDelete(_ context.Context, obj *corev1.Namespace) {
	obj.Status.Phase = corev1.NamespaceTerminating
}

// Finished says that nothing is left in the Namespace.
func (kind) Finished(obj *corev1.Namespace) bool { return len(obj.Spec.Finalizers) == 0 }

// SelectableFields are the fields that a field selector may name. "name" is an old spelling of metadata.name.
func (kind) SelectableFields(obj *corev1.Namespace) fields.Set {
	return fields.Set{"status.phase": string(obj.Status.Phase), "name": obj.Name}
}

// Columns are those of `kubectl get namespaces`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Status", "The status of the namespace"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.Namespace) ([]any, error) {
	return []any{obj.Name, string(obj.Status.Phase), table.Since(obj.CreationTimestamp)}, nil
}
