// Package clusterrole declares rbac.authorization.k8s.io/v1 ClusterRole.
package clusterrole

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metavalidation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/rbac/policy"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[rbacv1.ClusterRole](resource.Declaration{
		GVK:            rbacv1.SchemeGroupVersion.WithKind("ClusterRole"),
		Plural:         "clusterroles",
		Namespaced:     false,
		CreateOnUpdate: true,
	}, func() runtime.Object { return &rbacv1.ClusterRoleList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*rbacv1.ClusterRole] = kind{}
	_ resource.Printer[*rbacv1.ClusterRole]   = kind{}
	_ resource.NameValidator                  = kind{}
)

// Validate checks rules and aggregation, on create and update alike.
func (kind) Validate(_ context.Context, obj *rbacv1.ClusterRole) field.ErrorList {
	errs := policy.ValidateRules(obj.Rules, false)
	if obj.AggregationRule == nil {
		return errs
	}
	at := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(obj.AggregationRule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(at, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	for i := range obj.AggregationRule.ClusterRoleSelectors {
		selector := &obj.AggregationRule.ClusterRoleSelectors[i]
		errs = append(errs, metavalidation.ValidateLabelSelector(selector, metavalidation.LabelSelectorValidationOptions{}, at.Index(i))...)
		if _, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			errs = append(errs, field.Invalid(at.Index(i), *selector, "invalid label selector."))
		}
	}
	return errs
}

// ValidateName is described at policy.ValidateName.
func (kind) ValidateName(name string, prefix bool) []string { return policy.ValidateName(name, prefix) }

// Columns are those of `kubectl get clusterroles`.
func (kind) Columns() []metav1.TableColumnDefinition { return policy.RoleColumns() }

// Row is one line of the table.
func (kind) Row(obj *rbacv1.ClusterRole) ([]any, error) { return policy.RoleRow(obj), nil }
