// Package role declares rbac.authorization.k8s.io/v1 Role.
package role

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
	return resource.Declare[rbacv1.Role](resource.Declaration{
		GVK:            rbacv1.SchemeGroupVersion.WithKind("Role"),
		Plural:         "roles",
		Namespaced:     true,
		CreateOnUpdate: true,
	}, func() runtime.Object { return &rbacv1.RoleList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*rbacv1.Role] = kind{}
	_ resource.Printer[*rbacv1.Role]   = kind{}
	_ resource.NameValidator           = kind{}
)

// Validate checks the rules, on create and update alike.
func (kind) Validate(_ context.Context, obj *rbacv1.Role) field.ErrorList {
	return policy.ValidateRules(obj.Rules, true)
}

// ValidateName is described at policy.ValidateName.
func (kind) ValidateName(name string, prefix bool) []string { return policy.ValidateName(name, prefix) }

// Columns are those of `kubectl get roles`.
func (kind) Columns() []metav1.TableColumnDefinition { return policy.RoleColumns() }

// Row is one line of the table.
func (kind) Row(obj *rbacv1.Role) ([]any, error) { return policy.RoleRow(obj), nil }
