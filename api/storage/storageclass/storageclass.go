// Package storageclass declares storage.k8s.io/v1 StorageClass.
package storageclass

import (
	"context"
	"reflect"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/storage/class"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
	defaultclass "github.com/peapod/peapod/internal/storageclass"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[storagev1.StorageClass](resource.Declaration{
		GVK:           storagev1.SchemeGroupVersion.WithKind("StorageClass"),
		Plural:        "storageclasses",
		ShortNames:    []string{"sc"},
		ReturnDeleted: true,
	}, func() runtime.Object { return &storagev1.StorageClassList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*storagev1.StorageClass]       = kind{}
	_ resource.Validator[*storagev1.StorageClass]       = kind{}
	_ resource.UpdateValidator[*storagev1.StorageClass] = kind{}
	_ resource.Printer[*storagev1.StorageClass]         = kind{}
)

// Default fills in policy and mode.
func (kind) Default(obj *storagev1.StorageClass) {
	if obj.ReclaimPolicy == nil {
		obj.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimDelete)
	}
	if obj.VolumeBindingMode == nil {
		obj.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
	}
}

// Validate checks a new class.
func (kind) Validate(_ context.Context, obj *storagev1.StorageClass) field.ErrorList {
	errs := class.ValidateDriver(obj.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, class.ValidateParameters(obj.Parameters, field.NewPath("parameters"))...)
	if p := obj.ReclaimPolicy; p != nil && *p != "" {
		errs = append(errs, v.Supported(*p, field.NewPath("reclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain)...)
	}
	mode := field.NewPath("volumeBindingMode")
	if obj.VolumeBindingMode == nil {
		errs = append(errs, field.Required(mode, ""))
	}
	errs = append(errs, v.OptionalEnum(obj.VolumeBindingMode, mode,
		storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer)...)
	return append(errs, validateTopologies(obj.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// validateTopologies checks that each term has labels with values, no label twice, and that no two terms are the same.
func validateTopologies(terms []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := make([]map[string]sets.Set[string], 0, len(terms))
	for i, term := range terms {
		labels := map[string]sets.Set[string]{}
		at := path.Index(i).Child("matchLabelExpressions")
		for j, expression := range term.MatchLabelExpressions {
			key, values := at.Index(j).Child("key"), at.Index(j).Child("values")
			if len(expression.Values) == 0 {
				errs = append(errs, field.Required(values, ""))
			}
			errs = append(errs, v.LabelKey(expression.Key, key)...)
			list := sets.New[string]()
			for k, value := range expression.Values {
				if list.Has(value) {
					errs = append(errs, field.Duplicate(values.Index(k), value))
				}
				list.Insert(value)
			}
			if _, twice := labels[expression.Key]; twice {
				errs = append(errs, field.Duplicate(key, expression.Key))
			} else {
				labels[expression.Key] = list
			}
		}
		for _, other := range seen {
			if reflect.DeepEqual(other, labels) {
				errs = append(errs, field.Duplicate(at, ""))
			}
		}
		seen = append(seen, labels)
	}
	return errs
}

// ValidateUpdate checks a changed class. What volumes were made with stays.
func (kind) ValidateUpdate(_ context.Context, obj, old *storagev1.StorageClass) field.ErrorList {
	errs := apivalidation.ValidateImmutableField(obj.Parameters, old.Parameters, field.NewPath("parameters"))
	errs = append(errs, apivalidation.ValidateImmutableField(obj.Provisioner, old.Provisioner, field.NewPath("provisioner"))...)
	errs = append(errs, apivalidation.ValidateImmutableField(obj.ReclaimPolicy, old.ReclaimPolicy, field.NewPath("reclaimPolicy"))...)
	errs = append(errs, apivalidation.ValidateImmutableField(obj.VolumeBindingMode, old.VolumeBindingMode, field.NewPath("volumeBindingMode"))...)
	return append(errs, validateTopologies(obj.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

// Columns are those of `kubectl get storageclasses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := storagev1.StorageClass{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Provisioner", doc["provisioner"]),
		table.Text("ReclaimPolicy", doc["reclaimPolicy"]),
		table.Text("VolumeBindingMode", doc["volumeBindingMode"]),
		table.Text("AllowVolumeExpansion", doc["allowVolumeExpansion"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *storagev1.StorageClass) ([]any, error) {
	name := obj.Name
	if defaultclass.IsDefault(obj) {
		name += " (default)"
	}
	return []any{
		name, obj.Provisioner, string(ptr.Deref(obj.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
		string(ptr.Deref(obj.VolumeBindingMode, storagev1.VolumeBindingImmediate)),
		strconv.FormatBool(ptr.Deref(obj.AllowVolumeExpansion, false)), table.Since(obj.CreationTimestamp),
	}, nil
}
