package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/peapod/peapod/api/resource"
)

// allocation hooks a kind's Allocator into its store.
func allocation(store *genericregistry.Store, d *resource.Declaration, env resource.Env) {
	b := d.Behaviour
	if b.BeginCreateAllocation == nil {
		return
	}
	finish := func(settle func(bool)) genericregistry.FinishFunc {
		return func(ctx context.Context, ok bool) {
			switch w, isUpdate := ctx.Value(writeKey{}).(*write); {
			case settle == nil:
			case ok && isUpdate:
				w.attempted(settle)
			default:
				settle(ok)
			}
		}
	}
	store.BeginCreate = func(ctx context.Context, obj runtime.Object, o *metav1.CreateOptions) (genericregistry.FinishFunc, error) {
		settle, err := b.BeginCreateAllocation(ctx, env, obj, dryrun.IsDryRun(o.DryRun))
		if err != nil {
			return nil, err
		}
		return finish(settle), nil
	}
	store.BeginUpdate = func(ctx context.Context, obj, old runtime.Object, o *metav1.UpdateOptions) (genericregistry.FinishFunc, error) {
		settle, err := b.BeginUpdateAllocation(ctx, env, obj, old, dryrun.IsDryRun(o.DryRun))
		if err != nil {
			return nil, err
		}
		return finish(settle), nil
	}
	store.AfterDelete = func(obj runtime.Object, o *metav1.DeleteOptions) {
		if !dryrun.IsDryRun(o.DryRun) {
			b.Released(env, obj)
		}
	}
}

// write is what an update allocates. The generic store says that an update has succeeded before it is stored, at each attempt: what the
// old object had would be given back while it is still there, and be lost to it where it stays. So it is settled when all is over.
type write struct{ settle func(bool) }

// writeKey is where a context has it.
type writeKey struct{}

// attempted takes over from an attempt that is ready to be stored. The one before has not been: somebody else was faster.
func (w *write) attempted(settle func(bool)) {
	w.end(false)
	w.settle = settle
}

func (w *write) end(ok bool) {
	if w.settle != nil {
		w.settle(ok)
		w.settle = nil
	}
}

// update is the store's, which settles what it allocates when it is known whether the object was stored.
func update(ctx context.Context, store *genericregistry.Store, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	valid rest.ValidateObjectUpdateFunc, force bool, o *metav1.UpdateOptions) (runtime.Object, bool, error) {
	if store.BeginUpdate == nil {
		return store.Update(ctx, name, info, create, valid, force, o)
	}
	stored, w := false, &write{}
	defer func() { w.end(stored) }()
	obj, created, err := store.Update(context.WithValue(ctx, writeKey{}, w), name, info, create, valid, force, o)
	stored = err == nil
	return obj, created, err
}
