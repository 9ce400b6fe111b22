package registry

import (
	"context"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/inprocess"
	"github.com/peapod/peapod/internal/deepstack"
)

// naming is what discovery says of a resource beyond its plural.
type naming struct{ d *resource.Declaration }

func (n naming) ShortNames() []string { return n.d.ShortNames }
func (n naming) Categories() []string { return n.d.Categories }

// mainREST serves a kind's main resource.
type mainREST struct {
	*genericregistry.Store
	naming
	encoded *encodedLists
}

var (
	_ rest.StandardStorage      = (*mainREST)(nil)
	_ rest.ShortNamesProvider   = (*mainREST)(nil)
	_ rest.CategoriesProvider   = (*mainREST)(nil)
	_ rest.StorageWithReadiness = (*mainREST)(nil)
)

// List implements rest.Lister.
func (r *mainREST) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	return r.encoded.list(ctx, r.Store, o)
}

// Watch implements rest.Watcher.
func (r *mainREST) Watch(ctx context.Context, o *metainternalversion.ListOptions) (watch.Interface, error) {
	return watchStore(ctx, r.d, r.Store, o)
}

// watchStore watches what is stored. Callers within the process get objects as they are stored, so not those of a kind that is another
// version of what is.
func watchStore(ctx context.Context, d *resource.Declaration, store *genericregistry.Store, o *metainternalversion.ListOptions) (watch.Interface, error) {
	if d.AliasOf != nil {
		return store.Watch(ctx, o)
	}
	return inprocess.Watch(ctx, func(ctx context.Context) (watch.Interface, error) { return store.Watch(ctx, o) })
}

// Update implements rest.Updater. It runs in a goroutine of its own, whose beginning this is.
func (r *mainREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	valid rest.ValidateObjectUpdateFunc, force bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	deepstack.Reserve()
	return update(ctx, r.Store, name, info, create, valid, force, o)
}

// statusREST serves the status subresource: reads give the whole object, writes change its status.
type statusREST struct{ store *genericregistry.Store }

var (
	_ rest.Patcher             = (*statusREST)(nil)
	_ rest.TableConvertor      = (*statusREST)(nil)
	_ rest.ResetFieldsStrategy = (*statusREST)(nil)
)

func (r *statusREST) New() runtime.Object { return r.store.New() }

// Destroy does nothing: the store is the main resource's.
func (r *statusREST) Destroy() {}

func (r *statusREST) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, o)
}

func (r *statusREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	deepstack.Reserve()
	return r.store.Update(ctx, name, info, create, update, false, o)
}

func (r *statusREST) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

func (r *statusREST) ConvertToTable(ctx context.Context, obj, o runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, obj, o)
}

// printedREST serves a kind that is read and not stored.
type printedREST struct {
	resource.Reader
	rest.TableConvertor
	naming
}

var _ rest.Lister = printedREST{}

// twoPhase serves a kind that is deleted in two steps (resource.Deleter): it is the registry without the deletion of
// collections, and with a delete that first only marks the object.
type twoPhase struct {
	naming
	store   *genericregistry.Store
	encoded *encodedLists
}

var (
	_ rest.Lister              = (*twoPhase)(nil)
	_ rest.CreaterUpdater      = (*twoPhase)(nil)
	_ rest.GracefulDeleter     = (*twoPhase)(nil)
	_ rest.Watcher             = (*twoPhase)(nil)
	_ rest.Patcher             = (*twoPhase)(nil)
	_ rest.Scoper              = (*twoPhase)(nil)
	_ rest.ResetFieldsStrategy = (*twoPhase)(nil)
)

func newTwoPhase(store *genericregistry.Store, n naming) *twoPhase {
	return &twoPhase{naming: n, store: store, encoded: newEncodedLists(n.d, store)}
}

func (r *twoPhase) New() runtime.Object                    { return r.store.New() }
func (r *twoPhase) NewList() runtime.Object                { return r.store.NewList() }
func (r *twoPhase) Destroy()                               { r.store.Destroy() }
func (r *twoPhase) NamespaceScoped() bool                  { return r.store.NamespaceScoped() }
func (r *twoPhase) GetSingularName() string                { return r.store.GetSingularName() }
func (r *twoPhase) StorageVersion() runtime.GroupVersioner { return r.store.StorageVersion() }
func (r *twoPhase) ReadinessCheck() error                  { return r.store.ReadinessCheck() }

func (r *twoPhase) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

func (r *twoPhase) List(ctx context.Context, o *metainternalversion.ListOptions) (runtime.Object, error) {
	return r.encoded.list(ctx, r.store, o)
}

func (r *twoPhase) Watch(ctx context.Context, o *metainternalversion.ListOptions) (watch.Interface, error) {
	return watchStore(ctx, r.d, r.store, o)
}

func (r *twoPhase) Get(ctx context.Context, name string, o *metav1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, o)
}

func (r *twoPhase) Create(ctx context.Context, obj runtime.Object, valid rest.ValidateObjectFunc, o *metav1.CreateOptions) (runtime.Object, error) {
	return r.store.Create(ctx, obj, valid, o)
}

func (r *twoPhase) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	valid rest.ValidateObjectUpdateFunc, force bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	deepstack.Reserve()
	return update(ctx, r.store, name, info, create, valid, force, o)
}

func (r *twoPhase) ConvertToTable(ctx context.Context, obj, o runtime.Object) (*metav1.Table, error) {
	return r.store.ConvertToTable(ctx, obj, o)
}
