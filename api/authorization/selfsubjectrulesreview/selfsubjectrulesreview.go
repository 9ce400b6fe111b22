// Package selfsubjectrulesreview declares authorization.k8s.io/v1 SelfSubjectRulesReview, which is answered and not stored.
package selfsubjectrulesreview

import (
	"context"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/authorization/review"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[authorizationv1.SelfSubjectRulesReview](resource.Declaration{
		GVK:        authorizationv1.SchemeGroupVersion.WithKind("SelfSubjectRulesReview"),
		Plural:     "selfsubjectrulesreviews",
		Namespaced: false,
		Virtual:    storage,
	}, nil, kind{})
}

type kind struct{}

func storage(env resource.Env) rest.Storage {
	return review.Storage(review.Answer[*authorizationv1.SelfSubjectRulesReview]{
		New:      func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} },
		Singular: "selfsubjectrulesreview",
		Fill: func(ctx context.Context, obj *authorizationv1.SelfSubjectRulesReview) error {
			return fill(ctx, env, obj)
		},
	})
}

// fill answers with what is known even where not everything is.
func fill(ctx context.Context, env resource.Env, obj *authorizationv1.SelfSubjectRulesReview) error {
	u, err := review.Caller(ctx)
	if err != nil {
		return err
	}
	if obj.Spec.Namespace == "" {
		return apierrors.NewBadRequest("no namespace on request")
	}
	resources, paths, incomplete, err := env.Rules.RulesFor(ctx, u, obj.Spec.Namespace)
	obj.Status = authorizationv1.SubjectRulesReviewStatus{
		ResourceRules: []authorizationv1.ResourceRule{}, NonResourceRules: []authorizationv1.NonResourceRule{}, Incomplete: incomplete}
	for _, r := range resources {
		obj.Status.ResourceRules = append(obj.Status.ResourceRules, authorizationv1.ResourceRule{Verbs: r.GetVerbs(),
			APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, p := range paths {
		obj.Status.NonResourceRules = append(obj.Status.NonResourceRules, authorizationv1.NonResourceRule{Verbs: p.GetVerbs(),
			NonResourceURLs: p.GetNonResourceURLs()})
	}
	if err != nil {
		obj.Status.EvaluationError = err.Error()
	}
	return nil
}
