// Package selfsubjectaccessreview declares authorization.k8s.io/v1 SelfSubjectAccessReview, which is answered and not stored.
package selfsubjectaccessreview

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/authorization/review"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[authorizationv1.SelfSubjectAccessReview](resource.Declaration{
		GVK:        authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview"),
		Plural:     "selfsubjectaccessreviews",
		Namespaced: false,
		Virtual:    storage,
	}, nil, kind{})
}

type kind struct{}

func storage(env resource.Env) rest.Storage {
	return review.Storage(review.Answer[*authorizationv1.SelfSubjectAccessReview]{
		New:      func() *authorizationv1.SelfSubjectAccessReview { return &authorizationv1.SelfSubjectAccessReview{} },
		Singular: "selfsubjectaccessreview",
		Check: func(_ context.Context, obj *authorizationv1.SelfSubjectAccessReview) error {
			errs := review.ValidateAttributes(obj.Spec.ResourceAttributes, obj.Spec.NonResourceAttributes)
			errs = append(errs, review.EmptyMeta(&obj.ObjectMeta, false)...)
			return review.Invalid(authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectAccessReview").GroupKind(), errs)
		},
		Fill: func(ctx context.Context, obj *authorizationv1.SelfSubjectAccessReview) error {
			u, err := review.Caller(ctx)
			if err != nil {
				return err
			}
			obj.Status = review.Decide(ctx, env.Authorizer, u, obj.Spec.ResourceAttributes, obj.Spec.NonResourceAttributes)
			return nil
		},
	})
}
