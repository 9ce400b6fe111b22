package registry

import (
	"context"
	"errors"
	"fmt"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/storage"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/apiserver/gather"
)

// encodedLister is storage that has lists in the form in which they are sent as protobuf. Where it has not, its error says so by
// a method NotEncoded.
type encodedLister interface {
	// GetEncodedList returns the message of the list that GetList would fill in.
	GetEncodedList(ctx context.Context, key string, opts storage.ListOptions) ([]byte, error)
}

// notEncoded is an error that says that a list must be had by GetList.
type notEncoded interface {
	error
	NotEncoded()
}

// encodedLists answers lists that are sent as protobuf, without making objects of what is stored; nil answers none.
type encodedLists struct {
	// store is the kind's, but for what a list is: an Unknown that already is encoded.
	store *genericregistry.Store
}

// newEncodedLists returns nil where the storage has no encoded lists, or has them in another version.
func newEncodedLists(d *resource.Declaration, store *genericregistry.Store) *encodedLists {
	lister, ok := store.Storage.Storage.(encodedLister)
	if !ok || d.AliasOf != nil || d.NewList == nil || store.Decorator != nil {
		return nil
	}
	apiVersion, kind := d.GVK.ToAPIVersionAndKind()
	empty := runtime.Unknown{TypeMeta: runtime.TypeMeta{APIVersion: apiVersion, Kind: kind + "List"}}
	encoded := *store
	encoded.NewListFunc = func() runtime.Object { list := empty; return &list }
	encoded.Storage.Storage = encodedStorage{store.Storage.Storage, lister}
	return &encodedLists{store: &encoded}
}

// list is the List of store.
func (e *encodedLists) list(ctx context.Context, store *genericregistry.Store, o *metainternalversion.ListOptions) (runtime.Object, error) {
	if e != nil && gather.AsProtobuf(ctx) {
		list, err := e.store.List(ctx, o)
		if no := notEncoded(nil); !errors.As(err, &no) {
			return list, err
		}
	}
	return store.List(ctx, o)
}

// encodedStorage fills in an Unknown, which is how k8s.io/apiserver calls what is sent as it is.
type encodedStorage struct {
	storage.Interface
	lister encodedLister
}

func (s encodedStorage) GetList(ctx context.Context, key string, opts storage.ListOptions, list runtime.Object) error {
	out, ok := list.(*runtime.Unknown)
	if !ok {
		return fmt.Errorf("list %s as it is encoded: the list is a %T", key, list)
	}
	raw, err := s.lister.GetEncodedList(ctx, key, opts)
	out.Raw = raw
	return err
}
