package registry

import (
	"context"
	"reflect"

	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage/names"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/resource"
)

// strategy is how the main resource of a kind is created, updated and deleted.
type strategy struct {
	runtime.ObjectTyper
	names.NameGenerator
	d   *resource.Declaration
	env resource.Env
	// generation says that the kind keeps metadata.generation and has a .spec.
	generation bool
}

var (
	_ rest.RESTCreateStrategy              = strategy{}
	_ rest.RESTUpdateStrategy              = strategy{}
	_ rest.RESTDeleteStrategy              = strategy{}
	_ rest.GarbageCollectionDeleteStrategy = strategy{}
	_ rest.ResetFieldsStrategy             = strategy{}
	_ rest.RESTGracefulDeleteStrategy      = gracefulStrategy{}
)

func newStrategy(d *resource.Declaration, c Config) strategy {
	return strategy{
		ObjectTyper:   c.Scheme,
		NameGenerator: names.SimpleNameGenerator,
		d:             d,
		env:           c.Env,
		generation:    d.Generation && part(d.New(), "Spec").IsValid(),
	}
}

// part is the addressable field of the object of that name, invalid if it has none.
func part(obj runtime.Object, name string) reflect.Value {
	return reflect.ValueOf(obj).Elem().FieldByName(name)
}

func (s strategy) NamespaceScoped() bool { return s.d.Namespaced }

func (s strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	if s.d.Status && !s.d.StatusOnCreate {
		part(obj, "Status").SetZero()
	}
	if s.d.Generation {
		obj.(resource.Object).SetGeneration(1)
	}
	if f := s.d.Behaviour.PrepareForCreate; f != nil {
		f(ctx, obj)
	}
}

func (s strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	if s.d.Status {
		part(obj, "Status").Set(part(old, "Status"))
	}
	if f := s.d.Behaviour.PrepareForUpdate; f != nil {
		f(ctx, obj, old)
	}
	if s.generation && !resource.Equal(part(obj, "Spec").Addr().Interface(), part(old, "Spec").Addr().Interface()) {
		obj.(resource.Object).SetGeneration(old.(resource.Object).GetGeneration() + 1)
	}
}

func (s strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	validName := s.d.Behaviour.ValidateName
	if validName == nil {
		validName = apivalidation.NameIsDNSSubdomain
	}
	errs := apivalidation.ValidateObjectMetaAccessor(obj.(metav1.Object), s.d.Namespaced, validName, field.NewPath("metadata"))
	if f := s.d.Behaviour.Validate; f != nil {
		errs = append(errs, f(ctx, obj)...)
	}
	return append(errs, s.permit(ctx, obj, nil)...)
}

// ValidateUpdate leaves metadata to the caller, which has checked it as that of an update.
func (s strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	var errs field.ErrorList
	if f := s.d.Behaviour.ValidateUpdate; f != nil {
		errs = f(ctx, obj, old)
	} else if f := s.d.Behaviour.Validate; f != nil {
		errs = f(ctx, obj)
	}
	return append(errs, s.permit(ctx, obj, old)...)
}

func (s strategy) permit(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	if f := s.d.Behaviour.Permit; f != nil {
		return f(ctx, s.env, obj, old)
	}
	return nil
}

func (s strategy) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	if f := s.d.Behaviour.Warnings; f != nil {
		return f(ctx, obj, nil)
	}
	return nil
}

func (s strategy) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	if f := s.d.Behaviour.Warnings; f != nil {
		return f(ctx, obj, old)
	}
	return nil
}

func (strategy) Canonicalize(runtime.Object) {}

func (s strategy) AllowCreateOnUpdate(context.Context) bool { return s.d.Behaviour.CreateOnUpdate }

func (s strategy) AllowUnconditionalUpdate(context.Context) bool {
	return s.d.Behaviour.UnconditionalUpdate
}

func (s strategy) DefaultGarbageCollectionPolicy(ctx context.Context) rest.GarbageCollectionPolicy {
	if f := s.d.Behaviour.GarbageCollection; f != nil {
		return f(ctx)
	}
	return rest.DeleteDependents
}

// GetResetFields names what a write to the main resource cannot change, so that an applier does not come to own it.
func (s strategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	if !s.d.Status {
		return nil
	}
	return s.reset(fieldpath.MakePathOrDie("status"))
}

func (s strategy) reset(paths ...fieldpath.Path) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(s.d.GVK.GroupVersion().String()): fieldpath.NewSet(paths...),
	}
}

// gracefulStrategy is for the kinds whose objects stay a while after they are deleted.
type gracefulStrategy struct{ strategy }

func (s gracefulStrategy) CheckGracefulDelete(ctx context.Context, obj runtime.Object, o *metav1.DeleteOptions) bool {
	return s.d.Behaviour.CheckGracefulDelete(ctx, obj, o)
}

// statusStrategy is how the status subresource is updated.
type statusStrategy struct{ strategy }

// PrepareForUpdate makes obj old, but for .status and those parts of metadata that a status write may change or that
// are checked later (UID).
func (s statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	next, prev := reflect.ValueOf(obj).Elem(), reflect.ValueOf(old).Elem()
	for i := range next.NumField() {
		switch next.Type().Field(i).Name {
		case "Status", "TypeMeta", "ObjectMeta":
		default:
			next.Field(i).Set(prev.Field(i))
		}
	}
	m := part(obj, "ObjectMeta").Addr().Interface().(*metav1.ObjectMeta)
	was := part(old, "ObjectMeta").Interface().(metav1.ObjectMeta)
	is := *m
	*m = was
	m.UID, m.ResourceVersion, m.ManagedFields = is.UID, is.ResourceVersion, is.ManagedFields
	m.Labels, m.Annotations = is.Labels, is.Annotations
	m.Finalizers, m.OwnerReferences = is.Finalizers, is.OwnerReferences
	if f := s.d.Behaviour.PrepareForStatusUpdate; f != nil {
		f(ctx, obj, old)
	}
}

func (s statusStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	var errs field.ErrorList
	if f := s.d.Behaviour.ValidateStatusUpdate; f != nil {
		errs = f(ctx, obj, old)
	}
	if f := s.d.Behaviour.PermitStatus; f != nil {
		errs = append(errs, f(ctx, s.env, obj, old)...)
	}
	return errs
}

func (statusStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

func (statusStrategy) AllowCreateOnUpdate(context.Context) bool { return false }

func (s statusStrategy) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return s.reset(fieldpath.MakePathOrDie("spec"))
}

// aliasReset says of a kind's other version which fields a write cannot change: those that it says of the stored one.
type aliasReset struct {
	rest.ResetFieldsStrategy
	gv fieldpath.APIVersion
}

func (a aliasReset) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	fields := map[fieldpath.APIVersion]*fieldpath.Set{}
	for _, set := range a.ResetFieldsStrategy.GetResetFields() {
		fields[a.gv] = set
	}
	return fields
}
