// Package resourceslice declares resource.k8s.io/v1 ResourceSlice: the devices of a pool, or a part of them, as their driver tells.
package resourceslice

import (
	"context"
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/dynamic/device"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[resourcev1.ResourceSlice](resource.Declaration{
		GVK:           resourcev1.SchemeGroupVersion.WithKind("ResourceSlice"),
		Plural:        "resourceslices",
		Generation:    true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &resourcev1.ResourceSliceList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*resourcev1.ResourceSlice]       = kind{}
	_ resource.CreatePreparer[*resourcev1.ResourceSlice]  = kind{}
	_ resource.UpdatePreparer[*resourcev1.ResourceSlice]  = kind{}
	_ resource.Validator[*resourcev1.ResourceSlice]       = kind{}
	_ resource.UpdateValidator[*resourcev1.ResourceSlice] = kind{}
	_ resource.Warner[*resourcev1.ResourceSlice]          = kind{}
	_ resource.Selectable[*resourcev1.ResourceSlice]      = kind{}
	_ resource.Printer[*resourcev1.ResourceSlice]         = kind{}
)

// Default says since when a taint is there.
func (kind) Default(obj *resourcev1.ResourceSlice) {
	for i := range obj.Spec.Devices {
		for j := range obj.Spec.Devices[i].Taints {
			device.DefaultTaint(&obj.Spec.Devices[i].Taints[j])
		}
	}
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *resourcev1.ResourceSlice) { drop(&obj.Spec) }

// PrepareForUpdate drops what is not enabled.
func (kind) PrepareForUpdate(_ context.Context, obj, _ *resourcev1.ResourceSlice) { drop(&obj.Spec) }

func drop(s *resourcev1.ResourceSliceSpec) {
	s.PartitionTypeAttribute = nil // DRAPartitionableDevicesType
	s.SkipNodeOperations = nil     // DRAOptionalNodeOperations
	for i := range s.Devices {
		d := &s.Devices[i]
		d.NodeAllocatableResources = nil // DRANodeAllocatableResources
		for j := range d.ConsumesCounters {
			d.ConsumesCounters[j].CompatibilityGroups = nil // DRADeviceCompatibilityGroups
		}
		for name, a := range d.Attributes {
			// DRAListTypeAttributes
			a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}

// Warnings warns of names that may be taken for two.
func (kind) Warnings(_ context.Context, obj, _ *resourcev1.ResourceSlice) []string {
	if d := obj.Spec.Driver; d != strings.ToLower(d) {
		return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)}
	}
	return nil
}

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *resourcev1.ResourceSlice) fields.Set {
	return fields.Set{
		resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(obj.Spec.NodeName, ""),
		resourcev1.ResourceSliceSelectorDriver:   obj.Spec.Driver,
		resourcev1.ResourceSliceSelectorPoolName: obj.Spec.Pool.Name,
	}
}

// Columns are those of `kubectl get resourceslices`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Node", doc["nodeName"]),
		table.Text("Driver", doc["driver"]),
		table.Text("Pool", resourcev1.ResourcePool{}.SwaggerDoc()["name"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *resourcev1.ResourceSlice) ([]any, error) {
	s := &obj.Spec
	return []any{obj.Name, ptr.Deref(s.NodeName, ""), s.Driver, s.Pool.Name, table.Since(obj.CreationTimestamp)}, nil
}
