package serviceaccount

import (
	"context"
	"errors"
	"fmt"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/endpoints/request"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
)

const (
	defaultSeconds = int64(time.Hour / time.Second)
	minSeconds     = int64(10 * time.Minute / time.Second)
	maxSeconds     = int64(1) << 32
)

var tokenRequest = authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")

// tokenREST issues tokens: POST of a TokenRequest.
type tokenREST struct {
	accounts *genericregistry.Store
	env      resource.Env
}

var (
	_ rest.Storage                  = &tokenREST{}
	_ rest.NamedCreater             = &tokenREST{}
	_ rest.GroupVersionKindProvider = &tokenREST{}
	_ rest.Scoper                   = &tokenREST{}
)

func newToken(parent resource.Parent, env resource.Env) rest.Storage {
	return &tokenREST{accounts: parent.Main, env: env}
}

func (t *tokenREST) New() runtime.Object   { return &authenticationv1.TokenRequest{} }
func (t *tokenREST) Destroy()              {}
func (t *tokenREST) NamespaceScoped() bool { return true }

// GroupVersionKind says what the subresource takes, which is not its parent's kind.
func (t *tokenREST) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return tokenRequest
}

// Create issues a token for the account of that name.
func (t *tokenREST) Create(ctx context.Context, name string, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	req, ok := obj.(*authenticationv1.TokenRequest)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a TokenRequest: %#v", obj))
	}
	if t.env.Tokens == nil {
		return nil, apierrors.NewInternalError(errors.New("this server has no issuer of service account tokens"))
	}
	if err := t.complete(ctx, name, req); err != nil {
		return nil, err
	}
	account, err := t.account(ctx, name)
	if err != nil {
		return nil, err
	}
	req.Name, req.Namespace = account.Name, account.Namespace
	req.CreationTimestamp = metav1.Now()
	req.Status = authenticationv1.TokenRequestStatus{}
	if errs := validateSeconds(req.Spec.ExpirationSeconds); len(errs) > 0 {
		return nil, apierrors.NewInvalid(tokenRequest.GroupKind(), "", errs)
	}
	if validate != nil {
		if err := validate(ctx, req.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	bound, err := t.bound(ctx, account, req.Spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	token, expires, err := t.env.Tokens.Issue(ctx, account, bound, req.Spec.Audiences, *req.Spec.ExpirationSeconds)
	if err != nil {
		return nil, fmt.Errorf("failed to generate token: %w", err)
	}
	out := req.DeepCopy()
	out.Status = authenticationv1.TokenRequestStatus{Token: token, ExpirationTimestamp: metav1.NewTime(expires)}
	return out, nil
}

// complete fills in what the request leaves out and refuses metadata that is not the account's.
func (t *tokenREST) complete(ctx context.Context, name string, req *authenticationv1.TokenRequest) error {
	namespace, ok := request.NamespaceFrom(ctx)
	if !ok {
		return apierrors.NewBadRequest("namespace is required")
	}
	meta := field.NewPath("metadata")
	if req.Name != "" && req.Name != name {
		return apierrors.NewInvalid(tokenRequest.GroupKind(), name, field.ErrorList{
			field.Invalid(meta.Child("name"), req.Name, "must match the service account name if specified")})
	}
	if req.Namespace != "" && req.Namespace != namespace {
		return apierrors.NewInvalid(tokenRequest.GroupKind(), name, field.ErrorList{
			field.Invalid(meta.Child("namespace"), req.Namespace, "must match the service account namespace if specified")})
	}
	if req.Spec.ExpirationSeconds == nil {
		seconds := defaultSeconds
		req.Spec.ExpirationSeconds = &seconds
	}
	if len(req.Spec.Audiences) == 0 {
		req.Spec.Audiences = t.env.Tokens.DefaultAudiences()
	}
	return nil
}

func validateSeconds(seconds *int64) field.ErrorList {
	at := field.NewPath("spec", "expirationSeconds")
	switch {
	case *seconds < minSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, "may not specify a duration less than 10 minutes")}
	case *seconds > maxSeconds:
		return field.ErrorList{field.Invalid(at, *seconds, "may not specify a duration larger than 2^32 seconds")}
	}
	return nil
}

func (t *tokenREST) account(ctx context.Context, name string) (*corev1.ServiceAccount, error) {
	obj, err := t.accounts.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	account, ok := obj.(*corev1.ServiceAccount)
	if !ok {
		return nil, fmt.Errorf("read service account %s: unexpected type %T", name, obj)
	}
	return account, nil
}

// bound looks up the object that the token is to be bound to.
func (t *tokenREST) bound(ctx context.Context, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (*resource.BoundObject, error) {
	if ref == nil {
		return nil, nil
	}
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	b := &resource.BoundObject{BoundObjectReference: *ref}
	var uid types.UID
	switch gvk.GroupKind() {
	case schema.GroupKind{Kind: "Pod"}:
		pod, err := get[*corev1.Pod](ctx, t, "pods", ref.Name)
		if err != nil {
			return nil, err
		}
		if account.Name != pod.Spec.ServiceAccountName {
			return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		uid = pod.UID
		if b.NodeName = pod.Spec.NodeName; b.NodeName != "" {
			switch node, err := get[*corev1.Node](request.WithNamespace(ctx, metav1.NamespaceNone), t, "nodes", b.NodeName); {
			case err == nil:
				b.NodeUID = node.UID
			case !apierrors.IsNotFound(err):
				return nil, err
			}
		}
	case schema.GroupKind{Kind: "Node"}:
		node, err := get[*corev1.Node](request.WithNamespace(ctx, metav1.NamespaceNone), t, "nodes", ref.Name)
		if err != nil {
			return nil, err
		}
		uid = node.UID
	case schema.GroupKind{Kind: "Secret"}:
		secret, err := get[*corev1.Secret](ctx, t, "secrets", ref.Name)
		if err != nil {
			return nil, err
		}
		uid = secret.UID
	default:
		return nil, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", gvk.String()))
	}
	if ref.UID != "" && uid != ref.UID {
		return nil, apierrors.NewConflict(schema.GroupResource{Group: gvk.Group, Resource: gvk.Kind}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	b.UID = uid
	return b, nil
}

// get reads an object of another kind, in the namespace of ctx. The errors name that kind, which they take from the
// request's information.
func get[P runtime.Object](ctx context.Context, t *tokenREST, plural, name string) (P, error) {
	var none P
	store := t.env.Store(schema.GroupResource{Resource: plural})
	if store == nil {
		return none, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token: this server has no %s", plural))
	}
	ctx = request.WithRequestInfo(ctx, &request.RequestInfo{IsResourceRequest: true, Verb: "get", APIPrefix: "api",
		APIVersion: "v1", Namespace: request.NamespaceValue(ctx), Resource: plural, Name: name, Parts: []string{plural, name}})
	obj, err := store.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return none, err
	}
	typed, ok := obj.(P)
	if !ok {
		return none, fmt.Errorf("read %s %s: unexpected type %T", plural, name, obj)
	}
	return typed, nil
}
