package registry

import (
	"context"

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
	return strategy{ObjectTyper: c.Scheme, NameGenerator: names.SimpleNameGenerator, d: d, env: c.Env}
}

func (s strategy) NamespaceScoped() bool { return s.d.Namespaced }

func (s strategy) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	s.d.PrepareCreate(ctx, obj)
}

func (s strategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	s.d.PrepareUpdate(ctx, obj, old)
}

func (s strategy) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	return append(s.d.CheckCreate(ctx, obj), s.permit(ctx, obj, nil)...)
}

// ValidateUpdate leaves metadata to the caller, which has checked it as that of an update.
func (s strategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	return append(s.d.CheckUpdate(ctx, obj, old), s.permit(ctx, obj, old)...)
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

func (s strategy) AllowCreateOnUpdate(context.Context) bool { return s.d.CreateOnUpdate }

func (s strategy) AllowUnconditionalUpdate(context.Context) bool {
	return !s.d.VersionedUpdate
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

func (s statusStrategy) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	s.d.PrepareStatusUpdate(ctx, obj, old)
}

func (s statusStrategy) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	errs := s.d.CheckStatusUpdate(ctx, obj, old)
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
	if s.d.StatusAlone {
		return s.reset(fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("metadata"))
	}
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
