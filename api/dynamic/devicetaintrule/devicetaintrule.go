// Package devicetaintrule declares resource.k8s.io/v1 DeviceTaintRule: a taint that administrators put on devices, beside those that the
// drivers tell of.
package devicetaintrule

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/dynamic/device"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[resourcev1.DeviceTaintRule](resource.Declaration{
		GVK:           resourcev1.SchemeGroupVersion.WithKind("DeviceTaintRule"),
		Plural:        "devicetaintrules",
		Status:        true,
		StatusAlone:   true,
		Generation:    true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &resourcev1.DeviceTaintRuleList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*resourcev1.DeviceTaintRule]       = kind{}
	_ resource.UpdatePreparer[*resourcev1.DeviceTaintRule]  = kind{}
	_ resource.Validator[*resourcev1.DeviceTaintRule]       = kind{}
	_ resource.UpdateValidator[*resourcev1.DeviceTaintRule] = kind{}
	_ resource.StatusValidator[*resourcev1.DeviceTaintRule] = kind{}
	_ resource.Printer[*resourcev1.DeviceTaintRule]         = kind{}
)

// Default says since when the taint is there.
func (kind) Default(obj *resourcev1.DeviceTaintRule) { device.DefaultTaint(&obj.Spec.Taint) }

// PrepareForUpdate has the time of the taint begin anew with another effect, unless the client says when it began: tolerations that end
// are counted from then.
func (kind) PrepareForUpdate(_ context.Context, obj, old *resourcev1.DeviceTaintRule) {
	is, was := &obj.Spec.Taint, &old.Spec.Taint
	if is.Effect != was.Effect && is.TimeAdded.Equal(was.TimeAdded) {
		is.TimeAdded = &metav1.Time{Time: device.Now()}
	}
}

// Validate checks a new rule.
func (kind) Validate(_ context.Context, obj *resourcev1.DeviceTaintRule) field.ErrorList {
	path := field.NewPath("spec")
	return append(selector(obj.Spec.DeviceSelector, path.Child("deviceSelector")), device.Taint(&obj.Spec.Taint, path.Child("taint"))...)
}

// ValidateUpdate checks a changed rule, all of which may change. An effect that is as it was is not looked at, as a later version may have
// stored it.
func (kind) ValidateUpdate(_ context.Context, obj, old *resourcev1.DeviceTaintRule) field.ErrorList {
	path := field.NewPath("spec")
	errs := selector(obj.Spec.DeviceSelector, path.Child("deviceSelector"))
	taint := obj.Spec.Taint
	if taint.Effect == old.Spec.Taint.Effect {
		taint.Effect = resourcev1.DeviceTaintEffectNone
	}
	return append(errs, device.Taint(&taint, path.Child("taint"))...)
}

// selector checks what says which devices are meant. Nothing in it means all, and no selector none.
func selector(s *resourcev1.DeviceTaintSelector, path *field.Path) field.ErrorList {
	if s == nil {
		return nil
	}
	var errs field.ErrorList
	if s.Driver != nil {
		errs = append(errs, device.Driver(*s.Driver, path.Child("driver"))...)
	}
	if s.Pool != nil {
		errs = append(errs, device.Pool(*s.Pool, path.Child("pool"))...)
	}
	if s.Device != nil {
		errs = append(errs, v.DNSLabel(*s.Device, path.Child("device"))...)
	}
	return errs
}

// ValidateStatusUpdate checks the conditions.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *resourcev1.DeviceTaintRule) field.ErrorList {
	path := field.NewPath("status", "conditions")
	errs := metav1validation.ValidateConditions(obj.Status.Conditions, path)
	if n := len(obj.Status.Conditions); n > resourcev1.DeviceTaintRuleStatusMaxConditions {
		errs = append(errs, field.TooMany(path, n, resourcev1.DeviceTaintRuleStatusMaxConditions))
	}
	return errs
}

// Columns are those of `kubectl get devicetaintrules`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := resourcev1.DeviceTaint{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Key", doc["key"]),
		table.Text("Value", doc["value"]),
		table.Text("Effect", doc["effect"]),
		table.Text("TimeAdded", doc["timeAdded"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *resourcev1.DeviceTaintRule) ([]any, error) {
	t := &obj.Spec.Taint
	added := ""
	if t.TimeAdded != nil {
		added = table.Since(*t.TimeAdded)
	}
	return []any{obj.Name, t.Key, t.Value, string(t.Effect), added, table.Since(obj.CreationTimestamp)}, nil
}
