package namespace

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/resource"
)

// finalize is the subresource through which spec.finalizers change. Taking the last one off a Namespace that is being
// deleted removes it from the store.
type finalize struct{ store *genericregistry.Store }

var (
	_ rest.Storage             = &finalize{}
	_ rest.Updater             = &finalize{}
	_ rest.ResetFieldsStrategy = &finalize{}
)

func newFinalize(parent resource.Parent, _ resource.Env) rest.Storage {
	store := *parent.Main
	store.UpdateStrategy = finalizeStrategy{parent.Main.UpdateStrategy}
	return &finalize{store: &store}
}

// New returns an empty Namespace.
func (*finalize) New() runtime.Object { return &corev1.Namespace{} }

// Destroy does nothing: the store belongs to the Namespace's own storage.
func (*finalize) Destroy() {}

// Update replaces the finalizers of an existing Namespace.
func (f *finalize) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return f.store.Update(ctx, name, info, create, update, false, options)
}

// GetResetFields names the fields that the subresource does not own.
func (*finalize) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"v1": fieldpath.NewSet(fieldpath.MakePathOrDie("status"))}
}

// finalizeStrategy is the Namespace's strategy but for what it lets through.
type finalizeStrategy struct{ rest.RESTUpdateStrategy }

func (finalizeStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	obj.(*corev1.Namespace).Status = old.(*corev1.Namespace).Status
}

func (finalizeStrategy) ValidateUpdate(_ context.Context, obj, _ runtime.Object) field.ErrorList {
	return validateFinalizeUpdate(obj.(*corev1.Namespace))
}

func (finalizeStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
