// Package controllerrevision declares apps/v1 ControllerRevision.
package controllerrevision

import (
	"bytes"
	"context"
	"encoding/json"
	"strconv"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[appsv1.ControllerRevision](resource.Declaration{
		GVK:        appsv1.SchemeGroupVersion.WithKind("ControllerRevision"),
		Plural:     "controllerrevisions",
		Namespaced: true,
	}, func() runtime.Object { return &appsv1.ControllerRevisionList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*appsv1.ControllerRevision]       = kind{}
	_ resource.UpdateValidator[*appsv1.ControllerRevision] = kind{}
	_ resource.Printer[*appsv1.ControllerRevision]         = kind{}
)

// Validate checks a new revision.
func (kind) Validate(_ context.Context, obj *appsv1.ControllerRevision) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("data")
	switch raw := bytes.TrimSpace(obj.Data.Raw); {
	case obj.Data.Object != nil:
	case len(raw) == 0 || string(raw) == "null":
		errs = append(errs, field.Required(path, "data is mandatory"))
	default:
		var object map[string]any
		if err := json.Unmarshal(raw, &object); err != nil {
			errs = append(errs, field.Invalid(path, field.OmitValueType{}, "error parsing data: "+err.Error()))
		}
	}
	return append(errs, v.NonNegativeInteger(obj.Revision, field.NewPath("revision"))...)
}

// ValidateUpdate checks a changed revision, whose data stay.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *appsv1.ControllerRevision) field.ErrorList {
	errs := k.Validate(ctx, obj)
	if !sameData(&obj.Data, &old.Data) {
		errs = append(errs, field.Invalid(field.NewPath("data"), field.OmitValueType{}, v.Immutable))
	}
	return errs
}

// sameData compares what the data say: a patch may have put their text into another order.
func sameData(a, b *runtime.RawExtension) bool {
	if equality.Semantic.DeepEqual(a, b) {
		return true
	}
	var x, y any
	if json.Unmarshal(a.Raw, &x) != nil || json.Unmarshal(b.Raw, &y) != nil {
		return false
	}
	return equality.Semantic.DeepEqual(x, y)
}

// Columns are those of `kubectl get controllerrevisions`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Controller", "Controller of the object"),
		table.Text("Revision", appsv1.ControllerRevision{}.SwaggerDoc()["revision"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *appsv1.ControllerRevision) ([]any, error) {
	controller := table.None
	if ref := metav1.GetControllerOf(obj); ref != nil {
		kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
		controller = strings.ToLower(kind.String()) + "/" + ref.Name
	}
	return []any{obj.Name, controller, strconv.FormatInt(obj.Revision, 10), table.Since(obj.CreationTimestamp)}, nil
}
