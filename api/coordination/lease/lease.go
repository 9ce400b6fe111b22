// Package lease declares coordination.k8s.io/v1 Lease.
package lease

import (
	"context"
	"strings"

	coordinationv1 "k8s.io/api/coordination/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[coordinationv1.Lease](resource.Declaration{
		GVK:             coordinationv1.SchemeGroupVersion.WithKind("Lease"),
		Plural:          "leases",
		Namespaced:      true,
		CreateOnUpdate:  true, // a holder makes the lease that is not there yet
		VersionedUpdate: true, // a blind PUT would steal the lease
	}, func() runtime.Object { return &coordinationv1.LeaseList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*coordinationv1.Lease] = kind{}
	_ resource.Printer[*coordinationv1.Lease]   = kind{}
)

// Validate checks the spec, on create and update alike.
func (kind) Validate(_ context.Context, obj *coordinationv1.Lease) field.ErrorList {
	var errs field.ErrorList
	spec, path := &obj.Spec, field.NewPath("spec")
	if s := spec.LeaseDurationSeconds; s != nil && *s <= 0 {
		errs = append(errs, field.Invalid(path.Child("leaseDurationSeconds"), *s, "must be greater than 0"))
	}
	if n := spec.LeaseTransitions; n != nil && *n < 0 {
		errs = append(errs, field.Invalid(path.Child("leaseTransitions"), *n, "must be greater than or equal to 0"))
	}
	if spec.Strategy != nil {
		errs = append(errs, validateStrategy(*spec.Strategy, path.Child("strategy"))...)
	}
	if p := spec.PreferredHolder; p != nil && *p != "" && (spec.Strategy == nil || *spec.Strategy == "") {
		errs = append(errs, field.Forbidden(path.Child("preferredHolder"),
			"may only be specified when `strategy` is defined"))
	}
	return errs
}

// validateStrategy takes the well-known strategy and any name qualified with a domain of its owner.
func validateStrategy(s coordinationv1.CoordinatedLeaseStrategy, path *field.Path) field.ErrorList {
	if s == coordinationv1.OldestEmulationVersion {
		return nil
	}
	if !strings.Contains(string(s), "/") {
		return field.ErrorList{field.NotSupported(path, s,
			[]coordinationv1.CoordinatedLeaseStrategy{coordinationv1.OldestEmulationVersion})}
	}
	var errs field.ErrorList
	for _, msg := range validation.IsQualifiedName(string(s)) {
		errs = append(errs, field.Invalid(path, s, msg))
	}
	return errs
}

// Columns are those of `kubectl get leases`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Holder", coordinationv1.LeaseSpec{}.SwaggerDoc()["holderIdentity"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *coordinationv1.Lease) ([]any, error) {
	holder := ""
	if obj.Spec.HolderIdentity != nil {
		holder = *obj.Spec.HolderIdentity
	}
	return []any{obj.Name, holder, table.Since(obj.CreationTimestamp)}, nil
}
