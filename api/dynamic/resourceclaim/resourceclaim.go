// Package resourceclaim declares resource.k8s.io/v1 ResourceClaim: what devices somebody asks for, which of them were allocated, and
// which Pods may use them. What is asked never changes; what was allocated is taken back only as a whole.
package resourceclaim

import (
	"context"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/dynamic/device"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[resourcev1.ResourceClaim](resource.Declaration{
		GVK:           resourcev1.SchemeGroupVersion.WithKind("ResourceClaim"),
		Plural:        "resourceclaims",
		Namespaced:    true,
		Status:        true,
		StatusAlone:   true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &resourcev1.ResourceClaimList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*resourcev1.ResourceClaim]       = kind{}
	_ resource.CreatePreparer[*resourcev1.ResourceClaim]  = kind{}
	_ resource.UpdatePreparer[*resourcev1.ResourceClaim]  = kind{}
	_ resource.StatusPreparer[*resourcev1.ResourceClaim]  = kind{}
	_ resource.Validator[*resourcev1.ResourceClaim]       = kind{}
	_ resource.UpdateValidator[*resourcev1.ResourceClaim] = kind{}
	_ resource.StatusValidator[*resourcev1.ResourceClaim] = kind{}
	_ resource.Permitter[*resourcev1.ResourceClaim]       = kind{}
	_ resource.StatusPermitter[*resourcev1.ResourceClaim] = kind{}
	_ resource.Printer[*resourcev1.ResourceClaim]         = kind{}
)

// Default fills in requests and results.
func (kind) Default(obj *resourcev1.ResourceClaim) {
	device.DefaultClaim(&obj.Spec.Devices)
	if a := obj.Status.Allocation; a != nil {
		device.DefaultResults(a.Devices.Results)
	}
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *resourcev1.ResourceClaim) {
	device.DropClaim(&obj.Spec.Devices)
}

// PrepareForUpdate drops what is not enabled.
func (kind) PrepareForUpdate(_ context.Context, obj, _ *resourcev1.ResourceClaim) {
	device.DropClaim(&obj.Spec.Devices)
}

// Validate checks a new claim.
func (kind) Validate(_ context.Context, obj *resourcev1.ResourceClaim) field.ErrorList {
	return device.Claim(&obj.Spec.Devices, field.NewPath("spec", "devices"))
}

// ValidateUpdate lets metadata change only.
func (kind) ValidateUpdate(_ context.Context, obj, old *resourcev1.ResourceClaim) field.ErrorList {
	return apivalidation.ValidateImmutableField(obj.Spec, old.Spec, field.NewPath("spec"))
}

// Permit keeps administrators' access to the namespaces that have it.
func (kind) Permit(ctx context.Context, env resource.Env, obj, old *resourcev1.ResourceClaim) field.ErrorList {
	if old != nil {
		return nil // the specification is as it was
	}
	return device.AdminRequests(ctx, env, obj.Namespace, obj.Spec.Devices.Requests)
}

// Columns are those of `kubectl get resourceclaims`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("State", "A summary of the current state (allocated, pending, reserved, etc.)."),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *resourcev1.ResourceClaim) ([]any, error) {
	var states []string
	if obj.DeletionTimestamp != nil {
		states = append(states, "deleted")
	}
	switch {
	case obj.Status.Allocation != nil && len(obj.Status.ReservedFor) > 0:
		states = append(states, "allocated", "reserved")
	case obj.Status.Allocation != nil:
		states = append(states, "allocated")
	case obj.DeletionTimestamp == nil:
		states = append(states, "pending")
	}
	return []any{obj.Name, strings.Join(states, ","), table.Since(obj.CreationTimestamp)}, nil
}
