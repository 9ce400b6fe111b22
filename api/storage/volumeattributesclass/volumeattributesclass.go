// Package volumeattributesclass declares storage.k8s.io/v1 VolumeAttributesClass: what of a volume may be changed while it is
// in use, and to what. A claim names one; its driver does what it says.
package volumeattributesclass

import (
	"context"
	"reflect"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/storage/class"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[storagev1.VolumeAttributesClass](resource.Declaration{
		GVK:           storagev1.SchemeGroupVersion.WithKind("VolumeAttributesClass"),
		Plural:        "volumeattributesclasses",
		ShortNames:    []string{"vac"},
		ReturnDeleted: true,
	}, func() runtime.Object { return &storagev1.VolumeAttributesClassList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*storagev1.VolumeAttributesClass]       = kind{}
	_ resource.UpdateValidator[*storagev1.VolumeAttributesClass] = kind{}
	_ resource.Printer[*storagev1.VolumeAttributesClass]         = kind{}
)

// Validate checks a new class, which says something.
func (kind) Validate(_ context.Context, obj *storagev1.VolumeAttributesClass) field.ErrorList {
	parameters := field.NewPath("parameters")
	errs := class.ValidateDriver(obj.DriverName, field.NewPath("driverName"))
	errs = append(errs, class.ValidateParameters(obj.Parameters, parameters)...)
	if len(obj.Parameters) == 0 {
		errs = append(errs, field.Required(parameters, "must contain at least one key/value pair"))
	}
	return errs
}

// ValidateUpdate keeps what the class says: volumes have been changed to that.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *storagev1.VolumeAttributesClass) field.ErrorList {
	errs := k.Validate(ctx, obj)
	forbid := func(changed bool, name string) {
		if changed {
			errs = append(errs, field.Forbidden(field.NewPath(name), "updates to "+name+" are forbidden."))
		}
	}
	forbid(obj.DriverName != old.DriverName, "driverName")
	forbid(!reflect.DeepEqual(obj.Parameters, old.Parameters), "parameters")
	return errs
}

// Columns are those of `kubectl get volumeattributesclasses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *storagev1.VolumeAttributesClass) ([]any, error) {
	return []any{obj.Name, obj.DriverName, table.Since(obj.CreationTimestamp)}, nil
}
