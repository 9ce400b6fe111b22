// Package selfsubjectreview declares authentication.k8s.io/v1 SelfSubjectReview, which is answered and not stored.
package selfsubjectreview

import (
	"context"

	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/authorization/review"
	"github.com/peapod/peapod/api/resource"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[authenticationv1.SelfSubjectReview](resource.Declaration{
		GVK:        authenticationv1.SchemeGroupVersion.WithKind("SelfSubjectReview"),
		Plural:     "selfsubjectreviews",
		Namespaced: false,
		Virtual:    storage,
	}, nil, kind{})
}

type kind struct{}

func storage(resource.Env) rest.Storage {
	return review.Storage(review.Answer[*authenticationv1.SelfSubjectReview]{
		New:      func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },
		Singular: "selfsubjectreview",
		Fill: func(ctx context.Context, obj *authenticationv1.SelfSubjectReview) error {
			u, err := review.Caller(ctx)
			if err != nil {
				return err
			}
			*obj = authenticationv1.SelfSubjectReview{
				ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(time.Now())},
				Status: authenticationv1.SelfSubjectReviewStatus{UserInfo: authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(),
					Groups: u.GetGroups(), Extra: map[string]authenticationv1.ExtraValue{}}},
			}
			for k, v := range u.GetExtra() {
				obj.Status.UserInfo.Extra[k] = v
			}
			return nil
		},
	})
}
