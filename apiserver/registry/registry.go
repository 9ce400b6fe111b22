// Package registry turns the Declaration of a kind into REST storage: a generic registry with strategies that call the
// kind's behaviour, and around it what discovery, tables, field selectors, server-side apply and the status subresource
// need. It knows no kind by name.
package registry

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/resource"
)

// Config is what every kind's storage is made from.
type Config struct {
	// Scheme has the kinds registered (see package apiserver's scheme).
	Scheme *runtime.Scheme
	// Options says where a kind's objects are stored.
	Options generic.RESTOptionsGetter
	// Env is handed to the kinds that ask for it.
	Env resource.Env
}

// Storage is the REST storage of one kind in one version.
type Storage struct {
	Declaration *resource.Declaration
	// Parent holds the registries; both are nil for a virtual kind.
	Parent resource.Parent
	// REST maps "pods", "pods/status", ... to what serves it.
	REST map[string]rest.Storage
}

// New makes the storage of a stored or virtual kind. It does no I/O beyond what the storage decorator does.
func New(d *resource.Declaration, c Config) (*Storage, error) {
	s := &Storage{Declaration: d, REST: map[string]rest.Storage{}}
	if d.Virtual != nil {
		st := d.Virtual(c.Env)
		if r, ok := st.(resource.Reader); ok {
			st = printedREST{r, newTable(d), naming{d}}
		}
		s.REST[d.Plural] = st
		return s, s.subresources(c.Env)
	}
	if d.Behaviour.BeginCreateAllocation != nil && d.Behaviour.Restore == nil {
		return nil, fmt.Errorf("set up %s: it allocates but does not say how allocations are restored", d.GVK)
	}
	main, err := newStore(d, c)
	if err != nil {
		return nil, fmt.Errorf("set up storage of %s: %w", d.GVK, err)
	}
	s.Parent.Main = main
	if d.Status {
		status := *main
		st := statusStrategy{newStrategy(d, c)}
		status.UpdateStrategy, status.ResetFieldsStrategy = st, st
		// What a status write cannot change needs no allocation.
		status.BeginUpdate, status.AfterDelete = nil, main.AfterDelete
		s.Parent.Status = &status
	}
	s.serve()
	return s, s.subresources(c.Env)
}

// NewAlias makes the storage of a kind that is another served version of what base stores.
func NewAlias(d *resource.Declaration, base *Storage, c Config) (*Storage, error) {
	s := &Storage{Declaration: d, REST: map[string]rest.Storage{}}
	gv := fieldpath.APIVersion(d.GVK.GroupVersion().String())
	main := *base.Parent.Main
	main.ResetFieldsStrategy = aliasReset{main.ResetFieldsStrategy, gv}
	if d.Behaviour.Row != nil {
		main.TableConvertor = aliasTable{newTable(d), c.Scheme}
	}
	s.Parent.Main = &main
	if base.Parent.Status != nil {
		status := *base.Parent.Status
		status.ResetFieldsStrategy = aliasReset{status.ResetFieldsStrategy, gv}
		s.Parent.Status = &status
	}
	s.serve()
	return s, s.subresources(c.Env)
}

func (s *Storage) serve() {
	d := s.Declaration
	n := naming{d}
	if d.Behaviour.Finished != nil || (d.AliasOf != nil && d.AliasOf.Behaviour.Finished != nil) {
		s.REST[d.Plural] = newTwoPhase(s.Parent.Main, n)
	} else {
		s.REST[d.Plural] = &mainREST{s.Parent.Main, n, newEncodedLists(d, s.Parent.Main)}
	}
	if s.Parent.Status != nil {
		s.REST[d.Plural+"/status"] = &statusREST{s.Parent.Status}
	}
	if d.Behaviour.Scale != nil {
		s.REST[d.Plural+"/scale"] = &scaleREST{s.Parent.Main, d}
	}
}

func (s *Storage) subresources(env resource.Env) error {
	for _, sub := range s.Declaration.Subresources {
		path := s.Declaration.Plural + "/" + sub.Name
		if _, ok := s.REST[path]; ok {
			return fmt.Errorf("set up %s: subresource %q is declared twice", s.Declaration.GVK, sub.Name)
		}
		s.REST[path] = sub.Build(s.Parent, env)
	}
	return nil
}

// Restore reads every stored object of the kind and has the kind take again what the object holds. It must return
// before the first write.
func (s *Storage) Restore(ctx context.Context, env resource.Env) error {
	restore := s.Declaration.Behaviour.Restore
	if restore == nil || s.Declaration.AliasOf != nil {
		return nil
	}
	list, err := s.Parent.Main.List(request.WithNamespace(ctx, ""), &metainternalversion.ListOptions{})
	if err != nil {
		return fmt.Errorf("list %s: %w", s.Declaration.Resource(), err)
	}
	return meta.EachListItem(list, func(obj runtime.Object) error {
		if err := restore(env, obj); err != nil {
			o := obj.(resource.Object)
			return fmt.Errorf("restore what %s %s/%s holds: %w", s.Declaration.Singular, o.GetNamespace(), o.GetName(), err)
		}
		return nil
	})
}

func newStore(d *resource.Declaration, c Config) (*genericregistry.Store, error) {
	gr := d.Resource()
	st := newStrategy(d, c)
	store := &genericregistry.Store{
		NewFunc:                   d.New,
		NewListFunc:               d.NewList,
		DefaultQualifiedResource:  gr,
		SingularQualifiedResource: schema.GroupResource{Group: gr.Group, Resource: d.Singular},
		CreateStrategy:            st,
		UpdateStrategy:            st,
		DeleteStrategy:            st,
		ResetFieldsStrategy:       st,
		ReturnDeletedObject:       d.ReturnDeleted,
		TableConvertor:            newTable(d),
	}
	if d.Behaviour.CheckGracefulDelete != nil {
		store.DeleteStrategy = gracefulStrategy{st}
	}
	if finished := d.Behaviour.Finished; finished != nil {
		store.ShouldDeleteDuringUpdate = func(ctx context.Context, key string, obj, existing runtime.Object) bool {
			return finished(obj) && genericregistry.ShouldDeleteDuringUpdate(ctx, key, obj, existing)
		}
	}
	if ttl := d.Behaviour.TTL; ttl != nil {
		store.TTLFunc = func(obj runtime.Object, _ uint64, _ bool) (uint64, error) { return ttl(obj), nil }
	}
	allocation(store, d, c.Env)
	return store, store.CompleteWithOptions(&generic.StoreOptions{RESTOptions: c.Options, AttrFunc: attrs(d)})
}
