// Package csistoragecapacity declares storage.k8s.io/v1 CSIStorageCapacity: how much room a driver has for new volumes of a
// class, for nodes in a part of the cluster.
package csistoragecapacity

import (
	"context"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/resource"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind. It has no columns of its own, and none upstream.
func Declaration() *resource.Declaration {
	return resource.Declare[storagev1.CSIStorageCapacity](resource.Declaration{
		GVK:             storagev1.SchemeGroupVersion.WithKind("CSIStorageCapacity"),
		Plural:          "csistoragecapacities",
		Namespaced:      true,
		VersionedUpdate: true, // capacities are counted by one and used by others
	}, func() runtime.Object { return &storagev1.CSIStorageCapacityList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*storagev1.CSIStorageCapacity]       = kind{}
	_ resource.UpdateValidator[*storagev1.CSIStorageCapacity] = kind{}
	_ resource.Warner[*storagev1.CSIStorageCapacity]          = kind{}
)

// Validate checks a new object.
func (kind) Validate(_ context.Context, obj *storagev1.CSIStorageCapacity) field.ErrorList {
	return validate(obj, false)
}

// validate checks an object. For anyValue see v.LabelSelector.
func validate(obj *storagev1.CSIStorageCapacity, anyValue bool) field.ErrorList {
	errs := v.LabelSelector(obj.NodeTopology, anyValue, field.NewPath("nodeTopology"))
	errs = append(errs, v.ObjectName(obj.StorageClassName, field.NewPath("storageClassName"))...)
	if obj.Capacity != nil {
		errs = append(errs, v.NonNegative(*obj.Capacity, field.NewPath("capacity"))...)
	}
	return errs
}

// ValidateUpdate checks a changed object. What the driver was asked stays; values in the selector that cannot be are taken if there
// were some before.
func (kind) ValidateUpdate(_ context.Context, obj, old *storagev1.CSIStorageCapacity) field.ErrorList {
	topology := field.NewPath("nodeTopology")
	errs := validate(obj, len(v.LabelSelector(old.NodeTopology, false, topology)) > 0)
	if !equality.Semantic.DeepEqual(obj.NodeTopology, old.NodeTopology) {
		errs = append(errs, field.Invalid(topology, obj.NodeTopology, v.Immutable))
	}
	if obj.StorageClassName != old.StorageClassName {
		errs = append(errs, field.Invalid(field.NewPath("storageClassName"), obj.StorageClassName, v.Immutable))
	}
	return errs
}

// Warnings warns of labels of nodes that are deprecated.
func (kind) Warnings(_ context.Context, obj, _ *storagev1.CSIStorageCapacity) []string {
	return podspec.NodeSelectorWarnings(obj.NodeTopology, field.NewPath("nodeTopology"))
}
