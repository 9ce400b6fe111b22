// Package deviceclass declares resource.k8s.io/v1 DeviceClass: what devices of a kind have in common, and what their driver is told.
package deviceclass

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
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
	return resource.Declare[resourcev1.DeviceClass](resource.Declaration{
		GVK:           resourcev1.SchemeGroupVersion.WithKind("DeviceClass"),
		Plural:        "deviceclasses",
		Generation:    true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &resourcev1.DeviceClassList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*resourcev1.DeviceClass]       = kind{}
	_ resource.UpdateValidator[*resourcev1.DeviceClass] = kind{}
	_ resource.Printer[*resourcev1.DeviceClass]         = kind{}
)

// Validate checks a new class.
func (kind) Validate(_ context.Context, obj *resourcev1.DeviceClass) field.ErrorList {
	return validate(&obj.Spec, &resourcev1.DeviceClassSpec{})
}

// ValidateUpdate checks a changed class. Selectors and configuration that are as they were may be what is no longer allowed.
func (kind) ValidateUpdate(_ context.Context, obj, old *resourcev1.DeviceClass) field.ErrorList {
	return validate(&obj.Spec, &old.Spec)
}

func validate(is, was *resourcev1.DeviceClassSpec) field.ErrorList {
	path := field.NewPath("spec")
	var errs field.ErrorList
	if !equality.Semantic.DeepEqual(is.Selectors, was.Selectors) {
		errs = device.Selectors(is.Selectors, path.Child("selectors"))
	}
	stored := equality.Semantic.DeepEqual(is.Config, was.Config)
	errs = append(errs, device.List(is.Config, resourcev1.DeviceConfigMaxSize, path.Child("config"),
		func(c *resourcev1.DeviceClassConfiguration, at *field.Path) field.ErrorList {
			return device.Configuration(&c.DeviceConfiguration, stored, at)
		})...)
	if name := is.ExtendedResourceName; name != nil && !v.IsExtended(corev1.ResourceName(*name)) {
		errs = append(errs, field.Invalid(path.Child("extendedResourceName"), *name, "must be a valid extended resource name"))
	}
	return errs
}

// Columns are those of `kubectl get deviceclasses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{table.Name(), table.Age()}
}

// Row is one line of the table.
func (kind) Row(obj *resourcev1.DeviceClass) ([]any, error) {
	return []any{obj.Name, table.Since(obj.CreationTimestamp)}, nil
}
