package admission_test

import (
	"errors"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
)

func tokens(t *testing.T, c *cluster) {
	pod := c.pod(t, "bearer", "n1", nil)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "bearer", UID: pod.UID}}}
	made, err := c.system.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", request, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	k := c.bearing(t, made.Status.Token)
	who := func() (*authenticationv1.SelfSubjectReview, error) {
		return k.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	answer, err := who()
	if err != nil {
		t.Fatal(err)
	}
	u := answer.Status.UserInfo
	if u.Username != "system:serviceaccount:default:default" || strings.Join(u.Groups, " ") != "system:serviceaccounts system:serviceaccounts:default system:authenticated" {
		t.Errorf("token stands for %s of %v", u.Username, u.Groups)
	}
	for key, want := range map[string]string{"pod-name": "bearer", "pod-uid": string(pod.UID), "node-name": "n1", "credential-id": "JTI="} {
		if got := u.Extra["authentication.kubernetes.io/"+key]; len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("extra %s is %v, want %s", key, got, want)
		}
	}
	// The token's issuer can be discovered with it.
	raw, err := k.CoreV1().RESTClient().Get().AbsPath("/.well-known/openid-configuration").DoRaw(ctx)
	if err != nil || !strings.Contains(string(raw), `"issuer":"https://kubernetes.default.svc.cluster.local"`) {
		t.Errorf("discovery document: %s, %v", raw, err)
	}
	// It dies with its Pod.
	zero := int64(0)
	fine(t, c.system.CoreV1().Pods("default").Delete(ctx, "bearer", metav1.DeleteOptions{GracePeriodSeconds: &zero}))
	settle(t, func() error {
		if _, err := who(); !apierrors.IsUnauthorized(err) {
			return errors.New("the token outlives its Pod")
		}
		return nil
	})
	// Another Pod of the same name does not bring it back.
	c.pod(t, "bearer", "n1", nil)
	if _, err := who(); !apierrors.IsUnauthorized(err) {
		t.Errorf("token of an earlier Pod of the same name: %v", err)
	}
}

func tokenRequests(t *testing.T, c *cluster) {
	create := func(change func(*authenticationv1.TokenRequest)) error {
		r := &authenticationv1.TokenRequest{}
		change(r)
		_, err := c.system.CoreV1().ServiceAccounts("default").CreateToken(ctx, "builder", r, metav1.CreateOptions{})
		return err
	}
	pod := c.pod(t, "other", "", nil)
	for text, change := range map[string]func(*authenticationv1.TokenRequest){
		"spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 10 minutes": func(r *authenticationv1.TokenRequest) {
			r.Spec.ExpirationSeconds = ptr(int64(599))
		},
		"may not specify a duration larger than 2^32 seconds": func(r *authenticationv1.TokenRequest) {
			r.Spec.ExpirationSeconds = ptr(int64(1)<<32 + 1)
		},
		`cannot bind token for serviceaccount "builder" to pod running with different serviceaccount name.`: func(r *authenticationv1.TokenRequest) {
			r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name}
		},
		"cannot bind token to object of type /v1, Kind=ConfigMap": func(r *authenticationv1.TokenRequest) {
			r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "ConfigMap", Name: "x"}
		},
		"metadata.name: Invalid value: \"x\": must match the service account name if specified": func(r *authenticationv1.TokenRequest) {
			r.Name = "x"
		},
		`secrets "x" not found`: func(r *authenticationv1.TokenRequest) {
			r.Spec.BoundObjectRef = &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Secret", Name: "x"}
		},
	} {
		if err := create(change); err == nil || !strings.Contains(err.Error(), text) {
			t.Errorf("token request: %v, want %s", err, text)
		}
	}
	r := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: "other", UID: "wrong"}}}
	if _, err := c.system.CoreV1().ServiceAccounts("default").CreateToken(ctx, "default", r, metav1.CreateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("token bound to a Pod of another UID: %v, want a conflict", err)
	}
	made, err := c.system.CoreV1().ServiceAccounts("default").CreateToken(ctx, "builder", &authenticationv1.TokenRequest{}, metav1.CreateOptions{})
	fine(t, err)
	if made.Spec.ExpirationSeconds == nil || *made.Spec.ExpirationSeconds != 3600 || len(made.Spec.Audiences) != 1 {
		t.Errorf("defaults of a token request: %+v", made.Spec)
	}
}

func tokenReview(t *testing.T, c *cluster) {
	made, err := c.system.CoreV1().ServiceAccounts("default").CreateToken(ctx, "builder", &authenticationv1.TokenRequest{
		Spec: authenticationv1.TokenRequestSpec{Audiences: []string{"vault"}}}, metav1.CreateOptions{})
	fine(t, err)
	review := func(k kubernetes.Interface, token string, audiences ...string) authenticationv1.TokenReviewStatus {
		r, err := k.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: token, Audiences: audiences}}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return r.Status
	}
	if s := review(c.system, made.Status.Token, "vault", "other"); !s.Authenticated || len(s.Audiences) != 1 || s.Audiences[0] != "vault" ||
		s.User.Username != "system:serviceaccount:default:builder" {
		t.Errorf("review of a good token: %+v", s)
	}
	if s := review(c.system, made.Status.Token); s.Authenticated || !strings.Contains(s.Error, "is invalid for the target audiences") {
		t.Errorf("review of a token for somebody else: %+v", s)
	}
	// The caller's own identity must not count: it reviews in process and over the network alike.
	for _, k := range []kubernetes.Interface{c.system, c.as(t, "boss", "system:masters")} {
		if s := review(k, "nonsense"); s.Authenticated {
			t.Errorf("review of a bad token: %+v", s)
		}
	}
	// And the server itself does not take the token.
	_, err = c.bearing(t, made.Status.Token).CoreV1().Pods("default").List(ctx, metav1.ListOptions{})
	if !apierrors.IsUnauthorized(err) {
		t.Errorf("token for another audience: %v, want it refused", err)
	}
}
