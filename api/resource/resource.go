// Package resource is the vocabulary in which a kind of the API is declared: what it is called, how it is defaulted,
// validated, prepared for storage and printed. It says nothing about serving; package apiserver turns a Declaration
// into REST storage and knows no kind by name.
//
// A kind is one folder under api/ with one exported Declaration, made by Declare from a small value that implements
// whichever of the interfaces in behaviour.go the kind needs.
package resource

import (
	"context"
	"reflect"

	metainternalversion "k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Object is an API object with metadata.
type Object interface {
	runtime.Object
	metav1.Object
}

// Pointer constrains T's pointer type to be an API object.
type Pointer[T any] interface {
	*T
	Object
}

// Declaration says what one kind in one served version is.
type Declaration struct {
	// GVK is the group, version and kind as served; Plural is the resource's name in paths.
	GVK    schema.GroupVersionKind
	Plural string
	// Singular defaults to the kind in lower case.
	Singular   string
	ShortNames []string
	// Categories are the groups of kinds `kubectl get` knows, such as "all".
	Categories []string
	Namespaced bool
	// Status says that the kind has a status subresource: writes to the main resource never touch .status and writes
	// to the subresource touch nothing else (see StatusPreparer for kinds that differ).
	Status bool
	// StatusOnCreate lets a create bring its status along (Node: a kubelet registers with one). Otherwise it is cleared.
	StatusOnCreate bool
	// StatusAlone keeps all of metadata from writes to the status subresource. Those of other kinds may change labels,
	// annotations, finalizers and owner references.
	StatusAlone bool

	// New and NewList return empty objects. Declare sets New.
	New     func() runtime.Object
	NewList func() runtime.Object

	// Generation says that metadata.generation is kept: 1 at first, raised whenever .spec changes.
	Generation bool
	// CreateOnUpdate has a PUT of a name that does not exist create the object.
	CreateOnUpdate bool
	// VersionedUpdate refuses a PUT without resourceVersion, which otherwise replaces whatever there is.
	VersionedUpdate bool
	// ReturnDeleted says that a delete that removes the object answers with it, rather than with a Status.
	ReturnDeleted bool

	// AliasOf is set where the kind is another served version of a stored one (events.k8s.io/v1 Event of core/v1 Event):
	// it has no storage of its own, and Convert registers the conversions between the two Go types, both ways, for the
	// kind and for its list. Requests through either version get the stored kind's behaviour (which may look at the
	// request's group in the context); of the alias' own only Default counts, and a table is printed by its Printer if it
	// has one.
	AliasOf *Declaration
	Convert func(*runtime.Scheme) error

	// Virtual makes the storage of a kind that is answered rather than stored (the review kinds). It replaces
	// everything generic, but for the table of a Reader, which the kind's Printer prints.
	Virtual func(Env) rest.Storage
	// Yields says that another server may answer for the kind's group version: as long as an APIService leads to it. When that is
	// gone, this server answers again.
	Yields bool

	// Subresources beyond status.
	Subresources []Subresource

	// Behaviour is what Declare found the kind to implement.
	Behaviour Behaviour
}

// Resource returns the group and plural name.
func (d *Declaration) Resource() schema.GroupResource {
	return schema.GroupResource{Group: d.GVK.Group, Resource: d.Plural}
}

// Reader is the storage of a virtual kind that is read, by name and as lists.
type Reader interface {
	rest.Storage
	rest.Scoper
	rest.SingularNameProvider
	rest.Getter
	NewList() runtime.Object
	List(ctx context.Context, options *metainternalversion.ListOptions) (runtime.Object, error)
}

// Subresource is a named part of an object with REST storage of its own.
type Subresource struct {
	// Name is what follows the object's name in the path: "binding", "log", "scale".
	Name string
	// Build makes its storage. It is called once, after the parent's own storage exists.
	Build func(Parent, Env) rest.Storage
}

// Declare completes d for the Go type T, taking every behaviour that kind implements. Which interfaces are meant to be
// implemented is asserted in the kind's folder (var _ resource.Validator[*corev1.Pod] = kind{}): a method with a
// mistyped signature is not found here.
func Declare[T any, P Pointer[T]](d Declaration, newList func() runtime.Object, kind any) *Declaration {
	d.New = func() runtime.Object { return P(new(T)) }
	d.NewList = newList
	if d.Singular == "" {
		d.Singular = lower(d.GVK.Kind)
	}
	d.Behaviour = behaviourOf[P](kind)
	if d.Status {
		if _, ok := reflect.TypeFor[T]().FieldByName("Status"); !ok {
			panic("resource: " + d.GVK.String() + " declares a status subresource but has no field Status")
		}
	}
	return &d
}

func lower(s string) string {
	b := []byte(s)
	for i, c := range b {
		if 'A' <= c && c <= 'Z' {
			b[i] = c + 'a' - 'A'
		}
	}
	return string(b)
}
