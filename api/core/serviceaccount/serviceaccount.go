// Package serviceaccount declares core/v1 ServiceAccount and its token subresource.
package serviceaccount

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.ServiceAccount](resource.Declaration{
		GVK:          corev1.SchemeGroupVersion.WithKind("ServiceAccount"),
		Plural:       "serviceaccounts",
		ShortNames:   []string{"sa"},
		Namespaced:   true,
		Subresources: []resource.Subresource{{Name: "token", Build: newToken}},
	}, func() runtime.Object { return &corev1.ServiceAccountList{} }, kind{})
}

type kind struct{}

var (
	_ resource.CreatePreparer[*corev1.ServiceAccount] = kind{}
	_ resource.UpdatePreparer[*corev1.ServiceAccount] = kind{}
	_ resource.Warner[*corev1.ServiceAccount]         = kind{}
	_ resource.Printer[*corev1.ServiceAccount]        = kind{}
	_ resource.NameValidator                          = kind{}
)

// PrepareForCreate keeps of the references to secrets their names: they are all in the account's namespace.
func (kind) PrepareForCreate(_ context.Context, obj *corev1.ServiceAccount) { nameOnly(obj) }

// PrepareForUpdate is PrepareForCreate.
func (kind) PrepareForUpdate(_ context.Context, obj, _ *corev1.ServiceAccount) { nameOnly(obj) }

func nameOnly(obj *corev1.ServiceAccount) {
	for i, s := range obj.Secrets {
		obj.Secrets[i] = corev1.ObjectReference{Name: s.Name}
	}
}

// ValidateName takes a DNS-1123 subdomain.
func (kind) ValidateName(name string, prefix bool) []string {
	return apivalidation.ValidateServiceAccountName(name, prefix)
}

// enforceMountable is an annotation that is on its way out.
const enforceMountable = "kubernetes.io/enforce-mountable-secrets"

// Warnings tells of the annotation where it is new.
func (kind) Warnings(_ context.Context, obj, old *corev1.ServiceAccount) []string {
	if _, has := obj.Annotations[enforceMountable]; !has {
		return nil
	}
	if old != nil {
		if _, had := old.Annotations[enforceMountable]; had {
			return nil
		}
	}
	return []string{fmt.Sprintf("metadata.annotations[%s]: deprecated in v1.32+; prefer separate namespaces to isolate access to mounted secrets", enforceMountable)}
}

// Columns are those of `kubectl get serviceaccounts`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Secrets", corev1.ServiceAccount{}.SwaggerDoc()["secrets"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.ServiceAccount) ([]any, error) {
	return []any{obj.Name, int64(len(obj.Secrets)), table.Since(obj.CreationTimestamp)}, nil
}
