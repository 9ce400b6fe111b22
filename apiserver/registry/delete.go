package registry

import (
	"context"
	"fmt"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"github.com/peapod/peapod/api/resource"
)

// Delete marks the object at first, with a deletion timestamp and what the kind's BeginDelete adds. An object so marked
// is left alone until the kind says that it is finished, and then deleted.
func (r *twoPhase) Delete(ctx context.Context, name string, valid rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, bool, error) {
	current, err := r.store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	obj := current.(resource.Object)
	options := o.DeepCopy()
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	if options.Preconditions.UID == nil {
		uid := obj.GetUID()
		options.Preconditions.UID = &uid
	} else if *options.Preconditions.UID != obj.GetUID() {
		return nil, false, apierrors.NewConflict(r.d.Resource(), name, unmet("UID", *options.Preconditions.UID, obj.GetUID()))
	}
	if rv := options.Preconditions.ResourceVersion; rv != nil && *rv != obj.GetResourceVersion() {
		return nil, false, apierrors.NewConflict(r.d.Resource(), name, unmet("ResourceVersion", *rv, obj.GetResourceVersion()))
	}
	if obj.GetDeletionTimestamp().IsZero() {
		out, err := r.mark(ctx, name, valid, options)
		return out, false, err
	}
	if !r.declared().Behaviour.Finished(obj) {
		return obj, false, nil
	}
	return r.store.Delete(ctx, name, valid, options)
}

// unmet says that a precondition does not hold.
func unmet[T any](field string, want, is T) error {
	//lint:ignore ST1005 the API's text
	return fmt.Errorf("Precondition failed: %s in precondition: %v, %s in object meta: %v", field, want, field, is)
}

// declared is the declaration of the stored kind.
func (r *twoPhase) declared() *resource.Declaration {
	if r.d.AliasOf != nil {
		return r.d.AliasOf
	}
	return r.d
}

func (r *twoPhase) mark(ctx context.Context, name string, valid rest.ValidateObjectFunc, o *metav1.DeleteOptions) (runtime.Object, error) {
	key, err := r.store.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	pre := storage.Preconditions{UID: o.Preconditions.UID, ResourceVersion: o.Preconditions.ResourceVersion}
	out := r.store.NewFunc()
	err = r.store.Storage.GuaranteedUpdate(ctx, key, out, false, &pre, storage.SimpleUpdate(func(existing runtime.Object) (runtime.Object, error) {
		if valid != nil {
			if err := valid(ctx, existing.DeepCopyObject()); err != nil {
				return nil, err
			}
		}
		obj := existing.(resource.Object)
		if obj.GetDeletionTimestamp().IsZero() {
			now := metav1.Now()
			obj.SetDeletionTimestamp(&now)
		}
		propagate(obj, o)
		r.declared().Behaviour.BeginDelete(ctx, obj)
		return obj, nil
	}), dryrun.IsDryRun(o.DryRun), nil)
	if err == nil {
		return out, nil
	}
	err = storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, r.d.Resource(), name), r.d.Resource(), name)
	if _, ok := err.(apierrors.APIStatus); !ok {
		err = apierrors.NewInternalError(err)
	}
	return nil, err
}

// propagate sets the two finalizers by which the garbage collector is told what to do with an object's dependants, as
// the options ask; where they do not say, it leaves the finalizers alone.
func propagate(obj resource.Object, o *metav1.DeleteOptions) {
	//lint:ignore SA1019 OrphanDependents is deprecated, and still part of the API.
	orphan, policy := o.OrphanDependents, o.PropagationPolicy
	if orphan == nil && policy == nil {
		return
	}
	want := map[string]bool{
		metav1.FinalizerOrphanDependents: orphan != nil && *orphan || orphan == nil && *policy == metav1.DeletePropagationOrphan,
		metav1.FinalizerDeleteDependents: orphan != nil && !*orphan || orphan == nil && *policy == metav1.DeletePropagationForeground,
	}
	finalizers := slices.DeleteFunc(slices.Clone(obj.GetFinalizers()), func(f string) bool {
		_, ours := want[f]
		return ours
	})
	for _, f := range []string{metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents} {
		if want[f] {
			finalizers = append(finalizers, f)
		}
	}
	obj.SetFinalizers(finalizers)
}
