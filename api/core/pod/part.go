package pod

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// partREST serves a subresource that writes a part of a running Pod's spec, and reads as the whole Pod.
type partREST struct {
	store *genericregistry.Store
	// reset leaves an applier the fields that the part consists of.
	reset fieldpath.Filter
}

var (
	_ rest.Patcher                   = (*partREST)(nil)
	_ rest.TableConvertor            = (*partREST)(nil)
	_ rest.ResetFieldsFilterStrategy = (*partREST)(nil)
)

// newEphemeral serves "ephemeralcontainers", which adds containers for debugging.
func newEphemeral(pods *genericregistry.Store) *partREST {
	return newPart(pods, partStrategy{pods.UpdateStrategy, PrepareForEphemeralContainers, ValidateEphemeralContainers},
		fieldpath.MakePrefixMatcherOrDie("spec", "ephemeralContainers"))
}

// newResize serves "resize", which changes the resources of containers and of the Pod.
func newResize(pods *genericregistry.Store) *partREST {
	each := fieldpath.MatchAnyPathElement()
	return newPart(pods, partStrategy{pods.UpdateStrategy, PrepareForResize, ValidateResize},
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", each, "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "containers", each, "resizePolicy"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", each, "resources"),
		fieldpath.MakePrefixMatcherOrDie("spec", "initContainers", each, "resizePolicy"),
		fieldpath.MakePrefixMatcherOrDie("spec", "resources"))
}

func newPart(pods *genericregistry.Store, strategy partStrategy, fields ...*fieldpath.SetMatcher) *partREST {
	store := *pods
	store.UpdateStrategy = strategy
	return &partREST{&store, fieldpath.NewIncludeMatcherFilter(fields...)}
}

func (r *partREST) New() runtime.Object { return &corev1.Pod{} }

// Destroy does nothing: the store is the main resource's.
func (r *partREST) Destroy() {}

func (r *partREST) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, o)
}

func (r *partREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return r.store.Update(ctx, name, info, create, update, false, o)
}

func (r *partREST) ConvertToTable(ctx context.Context, obj, o runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, obj, o)
}

func (r *partREST) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter {
	return map[fieldpath.APIVersion]fieldpath.Filter{"v1": r.reset}
}

type partStrategy struct {
	rest.RESTUpdateStrategy
	prepare  func(p, old *corev1.Pod)
	validate func(p, old *corev1.Pod) field.ErrorList
}

func (s partStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	s.prepare(obj.(*corev1.Pod), old.(*corev1.Pod))
}

func (s partStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return s.validate(obj.(*corev1.Pod), old.(*corev1.Pod))
}

func (partStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
