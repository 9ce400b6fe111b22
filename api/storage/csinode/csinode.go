// Package csinode declares storage.k8s.io/v1 CSINode.
package csinode

import (
	"context"
	"fmt"
	"slices"

	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[storagev1.CSINode](resource.Declaration{
		GVK:             storagev1.SchemeGroupVersion.WithKind("CSINode"),
		Plural:          "csinodes",
		ReturnDeleted:   true,
		VersionedUpdate: true,
	}, func() runtime.Object { return &storagev1.CSINodeList{} }, kind{})
}

type kind struct{}

var (
	_ resource.CreatePreparer[*storagev1.CSINode]  = kind{}
	_ resource.UpdatePreparer[*storagev1.CSINode]  = kind{}
	_ resource.Validator[*storagev1.CSINode]       = kind{}
	_ resource.UpdateValidator[*storagev1.CSINode] = kind{}
	_ resource.Printer[*storagev1.CSINode]         = kind{}
)

// PrepareForCreate drops the status: reports of storage health belong to a feature that is off by default (CSIVolumeHealth).
func (kind) PrepareForCreate(_ context.Context, obj *storagev1.CSINode) {
	obj.Status = storagev1.CSINodeStatus{}
}

// PrepareForUpdate drops the status, too.
func (kind) PrepareForUpdate(_ context.Context, obj, _ *storagev1.CSINode) {
	obj.Status = storagev1.CSINodeStatus{}
}

// maxNodeID bounds a driver's name for the node, as the CSI specification does.
const maxNodeID = 256

// Validate checks a new object.
func (kind) Validate(_ context.Context, obj *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "drivers")
	for i := range obj.Spec.Drivers {
		d, at := &obj.Spec.Drivers[i], path.Index(i)
		errs = append(errs, v.CSIDriverName(d.Name, at.Child("name"))...)
		errs = append(errs, v.Required(d.NodeID, at.Child("nodeID"))...)
		if len(d.NodeID) > maxNodeID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if a := d.Allocatable; a != nil && a.Count != nil {
			errs = append(errs, apivalidation.ValidateNonnegativeField(int64(*a.Count), at.Child("allocatable", "count"))...)
		}
		if slices.ContainsFunc(obj.Spec.Drivers[:i], func(o storagev1.CSINodeDriver) bool { return o.Name == d.Name }) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		for j, key := range d.TopologyKeys {
			if key == "" {
				errs = append(errs, field.Required(at, key))
			}
			if slices.Contains(d.TopologyKeys[:j], key) {
				errs = append(errs, field.Duplicate(at, key))
			}
			errs = append(errs, v.QualifiedName(key, at)...)
		}
	}
	return errs
}

// ValidateUpdate checks a changed object. A driver may come, go, and say anew how many volumes it can have; the rest stays.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *storagev1.CSINode) field.ErrorList {
	errs := k.Validate(ctx, obj)
	for _, was := range old.Spec.Drivers {
		for _, is := range obj.Spec.Drivers {
			if was.Name == is.Name {
				was.Allocatable, is.Allocatable = nil, nil
				errs = append(errs, apivalidation.ValidateImmutableField(&is, &was, field.NewPath("spec", "drivers"))...)
			}
		}
	}
	return errs
}

// Columns are those of `kubectl get csinodes`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Drivers", "Drivers indicates the number of CSI drivers registered on the node"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *storagev1.CSINode) ([]any, error) {
	return []any{obj.Name, int64(len(obj.Spec.Drivers)), table.Since(obj.CreationTimestamp)}, nil
}
