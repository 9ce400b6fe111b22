// Package localsubjectaccessreview declares authorization.k8s.io/v1 LocalSubjectAccessReview, which is answered and not stored.
package localsubjectaccessreview

import (
	"context"

	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/authorization/review"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[authorizationv1.LocalSubjectAccessReview](resource.Declaration{
		GVK:        authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview"),
		Plural:     "localsubjectaccessreviews",
		Namespaced: true,
		Virtual:    storage,
	}, nil, kind{})
}

type kind struct{}

func storage(env resource.Env) rest.Storage {
	return review.Storage(review.Answer[*authorizationv1.LocalSubjectAccessReview]{
		New:        func() *authorizationv1.LocalSubjectAccessReview { return &authorizationv1.LocalSubjectAccessReview{} },
		Singular:   "localsubjectaccessreview",
		Namespaced: true,
		Check:      check,
		Fill: func(ctx context.Context, obj *authorizationv1.LocalSubjectAccessReview) error {
			obj.Status = review.Decide(ctx, env.Authorizer, review.Subject(&obj.Spec), obj.Spec.ResourceAttributes, obj.Spec.NonResourceAttributes)
			return nil
		},
	})
}

// check keeps the question within the namespace of the request: whoever may ask about one may not ask about others.
func check(ctx context.Context, obj *authorizationv1.LocalSubjectAccessReview) error {
	errs := review.ValidateAttributes(obj.Spec.ResourceAttributes, obj.Spec.NonResourceAttributes)
	errs = append(errs, review.ValidateSubject(obj.Spec.User, obj.Spec.Groups)...)
	errs = append(errs, review.EmptyMeta(&obj.ObjectMeta, true)...)
	if r := obj.Spec.ResourceAttributes; r != nil && r.Namespace != obj.Namespace {
		errs = append(errs, field.Invalid(field.NewPath("spec.resourceAttributes.namespace"), r.Namespace, "must match metadata.namespace"))
	}
	if n := obj.Spec.NonResourceAttributes; n != nil {
		errs = append(errs, field.Invalid(field.NewPath("spec.nonResourceAttributes"), n, "disallowed on this kind of request"))
	}
	if err := review.Invalid(authorizationv1.SchemeGroupVersion.WithKind("LocalSubjectAccessReview").GroupKind(), errs); err != nil {
		return err
	}
	namespace := request.NamespaceValue(ctx)
	if namespace == "" {
		return apierrors.NewBadRequest(fmt.Sprintf("namespace is required on this type: %v", namespace))
	}
	if namespace != obj.Namespace {
		return apierrors.NewBadRequest(fmt.Sprintf("spec.resourceAttributes.namespace must match namespace: %v", namespace))
	}
	return nil
}
