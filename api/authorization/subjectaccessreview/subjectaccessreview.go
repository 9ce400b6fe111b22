// Package subjectaccessreview declares authorization.k8s.io/v1 SubjectAccessReview, which is answered and not stored.
package subjectaccessreview

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/authorization/review"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[authorizationv1.SubjectAccessReview](resource.Declaration{
		GVK:        authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview"),
		Plural:     "subjectaccessreviews",
		Namespaced: false,
		Virtual:    storage,
	}, nil, kind{})
}

type kind struct{}

func storage(env resource.Env) rest.Storage {
	return review.Storage(review.Answer[*authorizationv1.SubjectAccessReview]{
		New:      func() *authorizationv1.SubjectAccessReview { return &authorizationv1.SubjectAccessReview{} },
		Singular: "subjectaccessreview",
		Check: func(_ context.Context, obj *authorizationv1.SubjectAccessReview) error {
			errs := review.ValidateAttributes(obj.Spec.ResourceAttributes, obj.Spec.NonResourceAttributes)
			errs = append(errs, review.ValidateSubject(obj.Spec.User, obj.Spec.Groups)...)
			errs = append(errs, review.EmptyMeta(&obj.ObjectMeta, false)...)
			return review.Invalid(authorizationv1.SchemeGroupVersion.WithKind("SubjectAccessReview").GroupKind(), errs)
		},
		Fill: func(ctx context.Context, obj *authorizationv1.SubjectAccessReview) error {
			obj.Status = review.Decide(ctx, env.Authorizer, review.Subject(&obj.Spec), obj.Spec.ResourceAttributes, obj.Spec.NonResourceAttributes)
			return nil
		},
	})
}
