package registry

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
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
		return func(_ context.Context, ok bool) {
			if settle != nil {
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
