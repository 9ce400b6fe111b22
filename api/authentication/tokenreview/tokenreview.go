// Package tokenreview declares authentication.k8s.io/v1 TokenReview, which is answered and not stored.
package tokenreview

import (
	"context"

	"errors"
	"fmt"
	"net/http"
	"net/url"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/authorization/review"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[authenticationv1.TokenReview](resource.Declaration{
		GVK:        authenticationv1.SchemeGroupVersion.WithKind("TokenReview"),
		Plural:     "tokenreviews",
		Namespaced: false,
		Virtual:    storage,
	}, nil, kind{})
}

type kind struct{}

func storage(env resource.Env) rest.Storage {
	return review.Storage(review.Answer[*authenticationv1.TokenReview]{
		New:      func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} },
		Singular: "tokenreview",
		Check: func(_ context.Context, obj *authenticationv1.TokenReview) error {
			if obj.Namespace != "" {
				return apierrors.NewBadRequest(fmt.Sprintf("namespace is not allowed on this type: %v", obj.Namespace))
			}
			if obj.Spec.Token == "" {
				return apierrors.NewBadRequest("token is required for TokenReview in authentication")
			}
			return nil
		},
		Fill: func(ctx context.Context, obj *authenticationv1.TokenReview) error {
			return fill(ctx, env, obj)
		},
	})
}

// fill authenticates a request that bears the token and nothing else.
func fill(ctx context.Context, env resource.Env, obj *authenticationv1.TokenReview) error {
	audiences := obj.Spec.Audiences
	if len(audiences) == 0 && env.Tokens != nil {
		audiences = env.Tokens.DefaultAudiences()
	}
	// The context carries who the caller is, which must not count for the token: only its end is passed on.
	question, cancel := context.WithCancel(context.Background())
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	if len(audiences) > 0 {
		question = authenticator.WithAudiences(question, audiences)
	}
	bearing := (&http.Request{URL: &url.URL{}, Header: http.Header{"Authorization": {"Bearer " + obj.Spec.Token}}}).WithContext(question)
	response, ok, err := env.Authenticator.AuthenticateRequest(bearing)
	obj.Status = authenticationv1.TokenReviewStatus{Authenticated: ok}
	if err != nil {
		obj.Status.Error = err.Error()
	}
	if response == nil {
		return nil
	}
	if len(audiences) > 0 && len(authenticator.Audiences(audiences).Intersect(response.Audiences)) == 0 {
		return apierrors.NewInternalError(errors.New("error validating audience"))
	}
	if u := response.User; u != nil {
		obj.Status.User = authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups(),
			Extra: map[string]authenticationv1.ExtraValue{}}
		for k, v := range u.GetExtra() {
			obj.Status.User.Extra[k] = v
		}
	}
	obj.Status.Audiences = response.Audiences
	return nil
}
