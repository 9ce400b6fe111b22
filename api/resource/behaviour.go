package resource

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
)

// The interfaces that a kind may implement, each optional; T is the pointer type, such as *corev1.Pod. None of them may
// keep or change an object beyond the call, except where it says that it changes obj.

// Defaulter fills in what the user left out. It changes obj, is idempotent, and sees only the object: it runs on every
// decode of the kind, from the wire and from the store.
type Defaulter[T Object] interface{ Default(obj T) }

// CreatePreparer changes obj on its way into the store: it drops what a client may not set. Status is already cleared
// (where Declaration.Status) and metadata.generation set to 1 (where Declaration.Generation).
type CreatePreparer[T Object] interface {
	PrepareForCreate(ctx context.Context, obj T)
}

// UpdatePreparer changes obj, which replaces old. Status is already old's (where Declaration.Status), and
// metadata.generation is raised by one after this call if .spec differs (where Declaration.Generation).
type UpdatePreparer[T Object] interface {
	PrepareForUpdate(ctx context.Context, obj, old T)
}

// StatusPreparer changes obj, which replaces old through the status subresource. Everything but .status, and the
// metadata that such a write may change (see Declaration.StatusAlone), is already old's.
type StatusPreparer[T Object] interface {
	PrepareForStatusUpdate(ctx context.Context, obj, old T)
}

// Validator checks an object that is to be created. Object metadata is already checked by the caller (see
// NameValidator). Messages are worded and fields named as Kubernetes does.
type Validator[T Object] interface {
	Validate(ctx context.Context, obj T) field.ErrorList
}

// UpdateValidator checks obj against the old object it replaces. Update of metadata is already checked. A kind without
// it is checked by Validator alone.
type UpdateValidator[T Object] interface {
	ValidateUpdate(ctx context.Context, obj, old T) field.ErrorList
}

// StatusValidator checks a write to the status subresource.
type StatusValidator[T Object] interface {
	ValidateStatusUpdate(ctx context.Context, obj, old T) field.ErrorList
}

// Permitter checks a write against what lies outside the object: other objects, and what the one who writes may do. It is asked
// after Validator and UpdateValidator; old is nil on create.
type Permitter[T Object] interface {
	Permit(ctx context.Context, env Env, obj, old T) field.ErrorList
}

// StatusPermitter is Permitter for a write to the status subresource.
type StatusPermitter[T Object] interface {
	PermitStatus(ctx context.Context, env Env, obj, old T) field.ErrorList
}

// NameValidator checks metadata.name; prefix says that name is a generateName. It returns messages. Kinds without it
// take a DNS-1123 subdomain.
type NameValidator interface {
	ValidateName(name string, prefix bool) []string
}

// Warner returns the warnings sent to a client whose write is otherwise fine. old is nil on create.
type Warner[T Object] interface {
	Warnings(ctx context.Context, obj, old T) []string
}

// Printer says how `kubectl get` shows the kind. Row returns one cell for each column; columns of priority 1 show with
// -o wide only.
type Printer[T Object] interface {
	Columns() []metav1.TableColumnDefinition
	Row(obj T) ([]any, error)
}

// Ordered says in which order `kubectl get` shows a list of the kind: as slices.SortFunc wants it said. Others are shown in
// that of their namespaces and names.
type Ordered[T Object] interface{ Compare(a, b T) int }

// Selectable returns the fields, beyond metadata.name and metadata.namespace, that a field selector may name. The set
// must hold every such field for every object, the empty ones too.
type Selectable[T Object] interface {
	SelectableFields(obj T) fields.Set
}

// GracefulDeleter decides how a delete proceeds. It may set options.GracePeriodSeconds and returns true where the object
// stays, marked with a deletion timestamp, until its owner is done with it. See rest.RESTGracefulDeleteStrategy.
type GracefulDeleter[T Object] interface {
	CheckGracefulDelete(ctx context.Context, obj T, options *metav1.DeleteOptions) bool
}

// Deleter keeps a kind's object in the store, on a delete, for as long as Finished says false even when no finalizer
// holds it (Namespace and its spec.finalizers).
//
// Such a kind has no collection delete.
type Deleter[T Object] interface {
	// BeginDelete changes obj when its deletion is first asked for.
	BeginDelete(ctx context.Context, obj T)
	// Finished says whether obj may leave the store.
	Finished(obj T) bool
}

// GarbageCollected overrides the default deletion policy of dependants.
type GarbageCollected interface {
	DefaultGarbageCollectionPolicy(ctx context.Context) rest.GarbageCollectionPolicy
}

// Expiring gives objects a life time in seconds, after which the store drops them (Event). Zero means for ever.
type Expiring[T Object] interface {
	TTL(obj T) uint64
}

// Allocator takes something from outside the object for it (a Service's addresses). BeginCreate and BeginUpdate change
// obj before it is stored and return what settles the matter, called exactly once with whether the write succeeded.
// Neither reserves anything on a dry run (see dry). Released is called after the object has gone.
type Allocator[T Object] interface {
	BeginCreate(ctx context.Context, env Env, obj T, dry bool) (settle func(ok bool), err error)
	BeginUpdate(ctx context.Context, env Env, obj, old T, dry bool) (settle func(ok bool), err error)
	Released(env Env, obj T)
}

// Restorer marks what a stored object holds as taken. It is called for each object of the kind when the server starts,
// before the first write. A kind with an Allocator whose allocations live in memory must have it.
type Restorer[T Object] interface {
	Restore(env Env, obj T) error
}

// Scaler gives a kind the scale subresource, autoscaling/v1 Scale: the number of Pods that are wanted and the number that
// exist, in one form for every kind that has them.
type Scaler[T Object] interface {
	// Scale returns the replicas that obj asks for, those that its status tells of, and the selector of its Pods as text.
	Scale(obj T) (spec, status int32, selector string, err error)
	// SetReplicas changes .spec.replicas, the only part of obj that a write to the subresource changes.
	SetReplicas(obj T, replicas int32)
}

// Behaviour is the type-erased form of the above that package apiserver works with. A nil member means that the kind
// does not implement it.
type Behaviour struct {
	Default                func(obj runtime.Object)
	PrepareForCreate       func(ctx context.Context, obj runtime.Object)
	PrepareForUpdate       func(ctx context.Context, obj, old runtime.Object)
	PrepareForStatusUpdate func(ctx context.Context, obj, old runtime.Object)
	Validate               func(ctx context.Context, obj runtime.Object) field.ErrorList
	ValidateUpdate         func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	ValidateStatusUpdate   func(ctx context.Context, obj, old runtime.Object) field.ErrorList
	Permit                 func(ctx context.Context, env Env, obj, old runtime.Object) field.ErrorList
	PermitStatus           func(ctx context.Context, env Env, obj, old runtime.Object) field.ErrorList
	ValidateName           func(name string, prefix bool) []string
	Warnings               func(ctx context.Context, obj, old runtime.Object) []string
	Columns                func() []metav1.TableColumnDefinition
	Row                    func(obj runtime.Object) ([]any, error)
	Compare                func(a, b runtime.Object) int
	SelectableFields       func(obj runtime.Object) fields.Set
	CheckGracefulDelete    func(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool
	BeginDelete            func(ctx context.Context, obj runtime.Object)
	Finished               func(obj runtime.Object) bool
	GarbageCollection      func(ctx context.Context) rest.GarbageCollectionPolicy
	TTL                    func(obj runtime.Object) uint64
	BeginCreateAllocation  func(ctx context.Context, env Env, obj runtime.Object, dry bool) (func(ok bool), error)
	BeginUpdateAllocation  func(ctx context.Context, env Env, obj, old runtime.Object, dry bool) (func(ok bool), error)
	Released               func(env Env, obj runtime.Object)
	Restore                func(env Env, obj runtime.Object) error
	Scale                  func(obj runtime.Object) (spec, status int32, selector string, err error)
	SetReplicas            func(obj runtime.Object, replicas int32)
}

// behaviourOf erases the types of whatever kind implements.
func behaviourOf[T Object](kind any) Behaviour {
	b := Behaviour{}
	// zero is the typed nil that stands for "no old object".
	var zero T
	as := func(o runtime.Object) T {
		if o == nil {
			return zero
		}
		return o.(T)
	}
	if k, ok := kind.(Defaulter[T]); ok {
		b.Default = func(o runtime.Object) { k.Default(as(o)) }
	}
	if k, ok := kind.(CreatePreparer[T]); ok {
		b.PrepareForCreate = func(ctx context.Context, o runtime.Object) { k.PrepareForCreate(ctx, as(o)) }
	}
	if k, ok := kind.(UpdatePreparer[T]); ok {
		b.PrepareForUpdate = func(ctx context.Context, o, old runtime.Object) { k.PrepareForUpdate(ctx, as(o), as(old)) }
	}
	if k, ok := kind.(StatusPreparer[T]); ok {
		b.PrepareForStatusUpdate = func(ctx context.Context, o, old runtime.Object) {
			k.PrepareForStatusUpdate(ctx, as(o), as(old))
		}
	}
	if k, ok := kind.(Validator[T]); ok {
		b.Validate = func(ctx context.Context, o runtime.Object) field.ErrorList { return k.Validate(ctx, as(o)) }
	}
	if k, ok := kind.(UpdateValidator[T]); ok {
		b.ValidateUpdate = func(ctx context.Context, o, old runtime.Object) field.ErrorList {
			return k.ValidateUpdate(ctx, as(o), as(old))
		}
	}
	if k, ok := kind.(StatusValidator[T]); ok {
		b.ValidateStatusUpdate = func(ctx context.Context, o, old runtime.Object) field.ErrorList {
			return k.ValidateStatusUpdate(ctx, as(o), as(old))
		}
	}
	permission(&b, kind, as)
	if k, ok := kind.(NameValidator); ok {
		b.ValidateName = k.ValidateName
	}
	if k, ok := kind.(Warner[T]); ok {
		b.Warnings = func(ctx context.Context, o, old runtime.Object) []string { return k.Warnings(ctx, as(o), as(old)) }
	}
	printing(&b, kind, as)
	if k, ok := kind.(Selectable[T]); ok {
		b.SelectableFields = func(o runtime.Object) fields.Set { return k.SelectableFields(as(o)) }
	}
	deletion(&b, kind, as)
	if k, ok := kind.(Allocator[T]); ok {
		b.BeginCreateAllocation = func(ctx context.Context, env Env, o runtime.Object, dry bool) (func(bool), error) {
			return k.BeginCreate(ctx, env, as(o), dry)
		}
		b.BeginUpdateAllocation = func(ctx context.Context, env Env, o, old runtime.Object, dry bool) (func(bool), error) {
			return k.BeginUpdate(ctx, env, as(o), as(old), dry)
		}
		b.Released = func(env Env, o runtime.Object) { k.Released(env, as(o)) }
	}
	if k, ok := kind.(Restorer[T]); ok {
		b.Restore = func(env Env, o runtime.Object) error { return k.Restore(env, as(o)) }
	}
	scaling(&b, kind, as)
	return b
}

// permission fills in the members of b that look beyond the object.
func permission[T Object](b *Behaviour, kind any, as func(runtime.Object) T) {
	if k, ok := kind.(Permitter[T]); ok {
		b.Permit = func(ctx context.Context, env Env, o, old runtime.Object) field.ErrorList {
			return k.Permit(ctx, env, as(o), as(old))
		}
	}
	if k, ok := kind.(StatusPermitter[T]); ok {
		b.PermitStatus = func(ctx context.Context, env Env, o, old runtime.Object) field.ErrorList {
			return k.PermitStatus(ctx, env, as(o), as(old))
		}
	}
}

// printing fills in the members of b that concern tables.
func printing[T Object](b *Behaviour, kind any, as func(runtime.Object) T) {
	if k, ok := kind.(Printer[T]); ok {
		b.Columns = k.Columns
		b.Row = func(o runtime.Object) ([]any, error) { return k.Row(as(o)) }
	}
	if k, ok := kind.(Ordered[T]); ok {
		b.Compare = func(x, y runtime.Object) int { return k.Compare(as(x), as(y)) }
	}
}

// deletion fills in the members of b that concern how an object ends.
func deletion[T Object](b *Behaviour, kind any, as func(runtime.Object) T) {
	if k, ok := kind.(GracefulDeleter[T]); ok {
		b.CheckGracefulDelete = func(ctx context.Context, o runtime.Object, options *metav1.DeleteOptions) bool {
			return k.CheckGracefulDelete(ctx, as(o), options)
		}
	}
	if k, ok := kind.(Deleter[T]); ok {
		b.BeginDelete = func(ctx context.Context, o runtime.Object) { k.BeginDelete(ctx, as(o)) }
		b.Finished = func(o runtime.Object) bool { return k.Finished(as(o)) }
	}
	if k, ok := kind.(GarbageCollected); ok {
		b.GarbageCollection = k.DefaultGarbageCollectionPolicy
	}
	if k, ok := kind.(Expiring[T]); ok {
		b.TTL = func(o runtime.Object) uint64 { return k.TTL(as(o)) }
	}
}

// scaling fills in the members of b that concern the scale subresource.
func scaling[T Object](b *Behaviour, kind any, as func(runtime.Object) T) {
	if k, ok := kind.(Scaler[T]); ok {
		b.Scale = func(o runtime.Object) (int32, int32, string, error) { return k.Scale(as(o)) }
		b.SetReplicas = func(o runtime.Object, n int32) { k.SetReplicas(as(o), n) }
	}
}
