// Package rolebinding declares rbac.authorization.k8s.io/v1 RoleBinding.
package rolebinding

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/rbac/policy"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[rbacv1.RoleBinding](resource.Declaration{
		GVK:            rbacv1.SchemeGroupVersion.WithKind("RoleBinding"),
		Plural:         "rolebindings",
		Namespaced:     true,
		CreateOnUpdate: true,
	}, func() runtime.Object { return &rbacv1.RoleBindingList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*rbacv1.RoleBinding]       = kind{}
	_ resource.Validator[*rbacv1.RoleBinding]       = kind{}
	_ resource.UpdateValidator[*rbacv1.RoleBinding] = kind{}
	_ resource.Printer[*rbacv1.RoleBinding]         = kind{}
	_ resource.NameValidator                        = kind{}
)

// Default fills in API groups.
func (kind) Default(obj *rbacv1.RoleBinding) { policy.Default(&obj.RoleRef, obj.Subjects) }

// Validate checks the role's reference and the subjects.
func (kind) Validate(_ context.Context, obj *rbacv1.RoleBinding) field.ErrorList {
	return policy.ValidateBinding(obj.RoleRef, obj.Subjects, true, "Role", "ClusterRole")
}

// ValidateUpdate keeps the role what it was.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *rbacv1.RoleBinding) field.ErrorList {
	return append(k.Validate(ctx, obj), policy.ValidateBindingUpdate(obj.RoleRef, old.RoleRef)...)
}

// ValidateName is described at policy.ValidateName.
func (kind) ValidateName(name string, prefix bool) []string { return policy.ValidateName(name, prefix) }

// Columns are those of `kubectl get rolebindings`.
func (kind) Columns() []metav1.TableColumnDefinition { return policy.BindingColumns("roleBinding") }

// Row is one line of the table.
func (kind) Row(obj *rbacv1.RoleBinding) ([]any, error) {
	return policy.BindingRow(obj, obj.RoleRef, obj.Subjects), nil
}
