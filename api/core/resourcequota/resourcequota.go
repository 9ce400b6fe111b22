// Package resourcequota declares core/v1 ResourceQuota.
package resourcequota

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/quantity"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.ResourceQuota](resource.Declaration{
		GVK:           corev1.SchemeGroupVersion.WithKind("ResourceQuota"),
		Plural:        "resourcequotas",
		ShortNames:    []string{"quota"},
		Namespaced:    true,
		Status:        true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &corev1.ResourceQuotaList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.ResourceQuota]       = kind{}
	_ resource.Validator[*corev1.ResourceQuota]       = kind{}
	_ resource.UpdateValidator[*corev1.ResourceQuota] = kind{}
	_ resource.StatusValidator[*corev1.ResourceQuota] = kind{}
	_ resource.Printer[*corev1.ResourceQuota]         = kind{}
)

// Default rounds the amounts.
func (kind) Default(obj *corev1.ResourceQuota) {
	quantity.RoundUp(obj.Spec.Hard)
	quantity.RoundUp(obj.Status.Hard)
	quantity.RoundUp(obj.Status.Used)
}

// Columns are those of `kubectl get resourcequotas`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
		table.Text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of "+
			"contention on the node."),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.ResourceQuota) ([]any, error) {
	var requests, limits []string
	for _, name := range slices.Sorted(maps.Keys(obj.Status.Hard)) {
		used, hard := obj.Status.Used[name], obj.Status.Hard[name]
		text := fmt.Sprintf("%s: %s/%s", name, used.String(), hard.String())
		if strings.HasPrefix(string(name), "limits") {
			limits = append(limits, text)
		} else {
			requests = append(requests, text)
		}
	}
	return []any{
		obj.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), table.Since(obj.CreationTimestamp),
	}, nil
}

// Validate checks a new quota.
func (kind) Validate(_ context.Context, obj *corev1.ResourceQuota) field.ErrorList {
	return append(validateSpec(&obj.Spec), validateStatus(&obj.Status)...)
}

// ValidateUpdate keeps the scopes: what was counted under others cannot be counted again.
func (kind) ValidateUpdate(_ context.Context, obj, old *corev1.ResourceQuota) field.ErrorList {
	errs := validateSpec(&obj.Spec)
	if !sameScopes(obj.Spec.Scopes, old.Spec.Scopes) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), obj.Spec.Scopes, "field is immutable"))
	}
	return errs
}

func sameScopes(a, b []corev1.ResourceQuotaScope) bool {
	set := func(list []corev1.ResourceQuotaScope) []corev1.ResourceQuotaScope {
		return slices.Compact(slices.Sorted(slices.Values(list)))
	}
	return slices.Equal(set(a), set(b))
}

// ValidateStatusUpdate checks what the quota controller counts. It must say which revision it has counted for.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *corev1.ResourceQuota) field.ErrorList {
	var errs field.ErrorList
	if obj.ResourceVersion == "" {
		errs = append(errs, field.Required(field.NewPath("resourceVersion"), ""))
	}
	return append(errs, validateStatus(&obj.Status)...)
}
