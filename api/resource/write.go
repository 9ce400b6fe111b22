package resource

import (
	"context"
	"reflect"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// part is the addressable field of the object of that name, invalid if it has none.
func part(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

// PrepareCreate changes obj, which is to be created: what a client may not set goes.
func (d *Declaration) PrepareCreate(ctx context.Context, obj runtime.Object) {
	if d.Status && !d.StatusOnCreate {
		part(obj, "Status").SetZero()
	}
	if d.Generation {
		obj.(Object).SetGeneration(1)
	}
	if f := d.Behaviour.PrepareForCreate; f != nil {
		f(ctx, obj)
	}
}

// PrepareUpdate changes obj, which is to replace old: what a client may not change is old's.
func (d *Declaration) PrepareUpdate(ctx context.Context, obj, old runtime.Object) {
	if d.Status {
		part(obj, "Status").Set(part(old, "Status"))
	}
	if f := d.Behaviour.PrepareForUpdate; f != nil {
		f(ctx, obj, old)
	}
	if !d.Generation {
		return
	}
	if is, was := part(obj, "Spec"), part(old, "Spec"); is.IsValid() && !Equal(is.Addr().Interface(), was.Addr().Interface()) {
		obj.(Object).SetGeneration(old.(Object).GetGeneration() + 1)
	}
}

// PrepareStatusUpdate makes obj, which is to replace old through the status subresource, old but for .status and those parts
// of metadata that such a write may change (see StatusAlone) or that are checked later (UID, resourceVersion).
func (d *Declaration) PrepareStatusUpdate(ctx context.Context, obj, old runtime.Object) {
	next, prev := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range next.NumField() {
		switch next.Type().Field(i).Name {
		case "Status", "TypeMeta", "ObjectMeta":
		default:
			next.Field(i).Set(prev.Field(i))
		}
	}
	m := part(obj, "ObjectMeta").Addr().Interface().(*metav1.ObjectMeta)
	is := *m
	*m = part(old, "ObjectMeta").Interface().(metav1.ObjectMeta)
	m.UID, m.ResourceVersion, m.ManagedFields = is.UID, is.ResourceVersion, is.ManagedFields
	if !d.StatusAlone {
		m.Labels, m.Annotations = is.Labels, is.Annotations
		m.Finalizers, m.OwnerReferences = is.Finalizers, is.OwnerReferences
	}
	if f := d.Behaviour.PrepareForStatusUpdate; f != nil {
		f(ctx, obj, old)
	}
}

// CheckCreate checks obj, prepared and with its name, as one that is to be created, whoever writes it.
func (d *Declaration) CheckCreate(ctx context.Context, obj runtime.Object) field.ErrorList {
	validName := d.Behaviour.ValidateName
	if validName == nil {
		validName = apivalidation.NameIsDNSSubdomain
	}
	errs := apivalidation.ValidateObjectMetaAccessor(obj.(metav1.Object), d.Namespaced, validName, field.NewPath("metadata"))
	if f := d.Behaviour.Validate; f != nil {
		errs = append(errs, f(ctx, obj)...)
	}
	return errs
}

// CheckUpdate checks obj, prepared, against old, which it is to replace. Metadata is the caller's to check.
func (d *Declaration) CheckUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if f := d.Behaviour.ValidateUpdate; f != nil {
		return f(ctx, obj, old)
	}
	if f := d.Behaviour.Validate; f != nil {
		return f(ctx, obj)
	}
	return nil
}

// CheckStatusUpdate checks a write to the status subresource, prepared.
func (d *Declaration) CheckStatusUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if f := d.Behaviour.ValidateStatusUpdate; f != nil {
		return f(ctx, obj, old)
	}
	return nil
}
