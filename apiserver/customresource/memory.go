package customresource

import (
	"context"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver/inprocess"
)

// lean takes off a definition what nobody reads of the copy that this server keeps: managed fields, which are as large as the schema
// where it was applied on the server's side. Writers of status send such copies; without managed fields a write leaves them as they
// are stored. Annotations stay: what those writers send of them is stored.
func lean(obj any) (any, error) {
	if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
		crd.ManagedFields = nil
	}
	return obj, nil
}

// sharing has watches of what is stored handed over to those within the process that share (inprocess.Watch), above all to the garbage
// collector, which watches each kind for as long as it is defined: no handler with its stack and buffers stays for that.
func sharing(make generic.StorageDecorator) generic.StorageDecorator {
	return func(config *storagebackend.ConfigForResource, prefix string, key func(runtime.Object) (string, error), newFunc, newList func() runtime.Object,
		attrs storage.AttrFunc, triggers storage.IndexerFuncs, indexers *cache.Indexers) (storage.Interface, factory.DestroyFunc, error) {
		s, destroy, err := make(config, prefix, key, newFunc, newList, attrs, triggers, indexers)
		if err != nil {
			return nil, nil, fmt.Errorf("make the storage of %s: %w", config.GroupResource, err)
		}
		return shared{s}, destroy, nil
	}
}

type shared struct{ storage.Interface }

// Watch implements storage.Interface.
func (s shared) Watch(ctx context.Context, key string, o storage.ListOptions) (watch.Interface, error) {
	return inprocess.Watch(ctx, func(ctx context.Context) (watch.Interface, error) { return s.Interface.Watch(ctx, key, o) })
}
