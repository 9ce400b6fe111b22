// Package review makes the REST storage of kinds that are answered and not stored: a create returns the object with the
// answer in it.
package review

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
)

// Answer is how one kind is answered. P is its pointer type.
type Answer[P resource.Object] struct {
	// New returns an empty object.
	New func() P
	// Singular is the resource's singular name.
	Singular string
	// Namespaced says whether the kind lives in namespaces.
	Namespaced bool
	// Check refuses what is wrong with obj; it may be nil. It returns API errors.
	Check func(ctx context.Context, obj P) error
	// Fill answers in obj.
	Fill func(ctx context.Context, obj P) error
}

// storage serves an Answer.
type storage[P resource.Object] struct{ Answer[P] }

var (
	_ rest.Storage              = storage[*metav1.PartialObjectMetadata]{}
	_ rest.Scoper               = storage[*metav1.PartialObjectMetadata]{}
	_ rest.Creater              = storage[*metav1.PartialObjectMetadata]{}
	_ rest.SingularNameProvider = storage[*metav1.PartialObjectMetadata]{}
)

// Storage returns the REST storage of a.
func Storage[P resource.Object](a Answer[P]) rest.Storage { return storage[P]{a} }

func (s storage[P]) New() runtime.Object     { return s.Answer.New() }
func (s storage[P]) Destroy()                {}
func (s storage[P]) NamespaceScoped() bool   { return s.Namespaced }
func (s storage[P]) GetSingularName() string { return s.Singular }

// Create answers obj, after validation by whoever wants to have a say.
func (s storage[P]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	review, ok := obj.(P)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a %s: %#v", s.Singular, obj))
	}
	if s.Check != nil {
		if err := s.Check(ctx, review); err != nil {
			return nil, err
		}
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	if err := s.Fill(ctx, review); err != nil {
		return nil, err
	}
	return review, nil
}

// Caller returns who sent the request.
func Caller(ctx context.Context) (user.Info, error) {
	u, ok := request.UserFrom(ctx)
	if !ok {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	return u, nil
}

// Invalid makes the API error of errs, nil if there are none.
func Invalid(kind schema.GroupKind, errs field.ErrorList) error {
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(kind, "", errs)
}

// EmptyMeta refuses metadata: a review has none. allowNamespace lets it name its namespace.
func EmptyMeta(m *metav1.ObjectMeta, allowNamespace bool) field.ErrorList {
	rest := m.DeepCopy()
	rest.ManagedFields = nil
	detail := "must be empty"
	if allowNamespace {
		rest.Namespace = ""
		detail = "must be empty except for namespace"
	}
	if equality.Semantic.DeepEqual(metav1.ObjectMeta{}, *rest) {
		return nil
	}
	return field.ErrorList{field.Invalid(field.NewPath("metadata"), *m, detail)}
}
