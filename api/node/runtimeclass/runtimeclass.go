// Package runtimeclass declares node.k8s.io/v1 RuntimeClass.
package runtimeclass

import (
	"context"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	machineryvalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/quantity"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	"github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[nodev1.RuntimeClass](resource.Declaration{
		GVK:             nodev1.SchemeGroupVersion.WithKind("RuntimeClass"),
		Plural:          "runtimeclasses",
		CreateOnUpdate:  true,
		VersionedUpdate: true,
	}, func() runtime.Object { return &nodev1.RuntimeClassList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*nodev1.RuntimeClass]       = kind{}
	_ resource.Validator[*nodev1.RuntimeClass]       = kind{}
	_ resource.UpdateValidator[*nodev1.RuntimeClass] = kind{}
	_ resource.Printer[*nodev1.RuntimeClass]         = kind{}
)

// Default rounds the overhead.
func (kind) Default(obj *nodev1.RuntimeClass) {
	if obj.Overhead != nil {
		quantity.RoundUp(obj.Overhead.PodFixed)
	}
}

// Validate checks a new class.
func (kind) Validate(_ context.Context, obj *nodev1.RuntimeClass) field.ErrorList {
	errs := validation.Messages(machineryvalidation.NameIsDNSLabel(obj.Handler, false), obj.Handler,
		field.NewPath("handler"))
	if obj.Overhead != nil {
		path := field.NewPath("overhead", "podFixed", "limits")
		for _, name := range slices.Sorted(maps.Keys(obj.Overhead.PodFixed)) {
			amount := obj.Overhead.PodFixed[name]
			errs = append(errs, validation.ContainerResourceName(name, path.Key(string(name)))...)
			errs = append(errs, validation.ResourceQuantity(name, amount, path.Key(string(name)))...)
			if validation.IsHugePages(name) {
				if err := validation.HugePagesDivisible(name, amount); err != nil {
					errs = append(errs, field.Invalid(path.Key(string(name)), amount.String(), err.Error()))
				}
			}
		}
	}
	if s := obj.Scheduling; s != nil {
		path := field.NewPath("scheduling")
		if s.NodeSelector != nil {
			errs = append(errs, validation.Labels(s.NodeSelector, path.Child("nodeSelector"))...)
		}
		errs = append(errs, validateTolerations(s.Tolerations, path.Child("tolerations"))...)
	}
	return errs
}

// validateTolerations checks each, and that none is there twice: they are merged into Pods as a set.
func validateTolerations(list []corev1.Toleration, path *field.Path) field.ErrorList {
	errs := validation.Tolerations(list, path)
	for i, t := range list {
		twin := slices.IndexFunc(list[:i], func(u corev1.Toleration) bool { return equality.Semantic.DeepEqual(t, u) })
		if twin >= 0 {
			errs = append(errs, field.Duplicate(path.Index(i), t))
		}
	}
	return errs
}

// ValidateUpdate keeps the handler: Pods of the class run with it.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *nodev1.RuntimeClass) field.ErrorList {
	errs := machineryvalidation.ValidateImmutableField(obj.Handler, old.Handler, field.NewPath("handler"))
	return append(errs, k.Validate(ctx, obj)...)
}

// Columns are those of `kubectl get runtimeclasses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Handler", nodev1.RuntimeClass{}.SwaggerDoc()["handler"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *nodev1.RuntimeClass) ([]any, error) {
	return []any{obj.Name, obj.Handler, table.Since(obj.CreationTimestamp)}, nil
}
