// Package resourceclaimtemplate declares resource.k8s.io/v1 ResourceClaimTemplate: the claims that Pods get of their own.
package resourceclaimtemplate

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/dynamic/device"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[resourcev1.ResourceClaimTemplate](resource.Declaration{
		GVK:           resourcev1.SchemeGroupVersion.WithKind("ResourceClaimTemplate"),
		Plural:        "resourceclaimtemplates",
		Namespaced:    true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*resourcev1.ResourceClaimTemplate]       = kind{}
	_ resource.CreatePreparer[*resourcev1.ResourceClaimTemplate]  = kind{}
	_ resource.UpdatePreparer[*resourcev1.ResourceClaimTemplate]  = kind{}
	_ resource.Validator[*resourcev1.ResourceClaimTemplate]       = kind{}
	_ resource.UpdateValidator[*resourcev1.ResourceClaimTemplate] = kind{}
	_ resource.Permitter[*resourcev1.ResourceClaimTemplate]       = kind{}
	_ resource.Printer[*resourcev1.ResourceClaimTemplate]         = kind{}
)

// Default fills in the claim.
func (kind) Default(obj *resourcev1.ResourceClaimTemplate) {
	device.DefaultClaim(&obj.Spec.Spec.Devices)
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *resourcev1.ResourceClaimTemplate) {
	device.DropClaim(&obj.Spec.Spec.Devices)
}

// PrepareForUpdate drops what is not enabled.
func (kind) PrepareForUpdate(_ context.Context, obj, _ *resourcev1.ResourceClaimTemplate) {
	device.DropClaim(&obj.Spec.Spec.Devices)
}

// Validate checks a new template.
func (kind) Validate(_ context.Context, obj *resourcev1.ResourceClaimTemplate) field.ErrorList {
	path := field.NewPath("spec")
	errs := v.TemplateMeta(&obj.Spec.ObjectMeta, path.Child("metadata"))
	return append(errs, device.Claim(&obj.Spec.Spec.Devices, path.Child("spec", "devices"))...)
}

// ValidateUpdate lets metadata change only.
func (kind) ValidateUpdate(_ context.Context, obj, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	return apivalidation.ValidateImmutableField(obj.Spec, old.Spec, field.NewPath("spec"))
}

// Permit keeps administrators' access to the namespaces that have it.
func (kind) Permit(ctx context.Context, env resource.Env, obj, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
	if old != nil {
		return nil // the specification is as it was
	}
	return device.AdminRequests(ctx, env, obj.Namespace, obj.Spec.Spec.Devices.Requests)
}

// Columns are those of `kubectl get resourceclaimtemplates`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{table.Name(), table.Age()}
}

// Row is one line of the table.
func (kind) Row(obj *resourcev1.ResourceClaimTemplate) ([]any, error) {
	return []any{obj.Name, table.Since(obj.CreationTimestamp)}, nil
}
