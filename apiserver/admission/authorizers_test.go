package admission_test

import (
	"context"
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"

	"github.com/peapod/peapod/apiserver/authn"
	"github.com/peapod/peapod/apiserver/authn/issuers"
	"github.com/peapod/peapod/apiserver/authz/structured"
)

// serveReviews answers reviews of the type on loopback, and returns the kubeconfig that leads there.
func serveReviews[T any](t *testing.T, answer func(*T)) string {
	t.Helper()
	s := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review T
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		answer(&review)
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(review) // the client may be gone
	}))
	t.Cleanup(s.Close)
	config := clientcmdapi.NewConfig()
	config.Clusters["c"] = &clientcmdapi.Cluster{Server: s.URL, InsecureSkipTLSVerify: true}
	config.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: "server"}
	config.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	config.CurrentContext = "x"
	file := filepath.Join(t.TempDir(), "kubeconfig")
	if err := clientcmd.WriteToFile(*config, file); err != nil {
		t.Fatal(err)
	}
	return file
}

const (
	authorizersHead = "apiVersion: apiserver.config.k8s.io/v1\nkind: AuthorizationConfiguration\nauthorizers:\n"
	ownAuthorizers  = "- {type: Node, name: node}\n- {type: RBAC, name: rbac}\n"
)

// asking is the entry of a webhook in the file.
func asking(kubeconfig string) string {
	return `- type: Webhook
  name: shop
  webhook:
    timeout: 30s
    subjectAccessReviewVersion: v1
    matchConditionSubjectAccessReviewVersion: v1
    failurePolicy: Deny
    authorizedTTL: 10s
    unauthorizedTTL: 10s
    connectionInfo: {type: KubeConfigFile, kubeConfigFile: ` + kubeconfig + `}
    matchConditions:
    - expression: "request.user.startsWith('web-')"
`
}

// TestAuthorizers: a webhook is asked where the file has it, for the requests that its conditions match, and no longer when the file has
// changed.
func TestAuthorizers(t *testing.T) {
	var mu sync.Mutex
	asked := map[string]bool{}
	kubeconfig := serveReviews(t, func(r *authorizationv1.SubjectAccessReview) {
		mu.Lock()
		defer mu.Unlock()
		asked[r.Spec.User] = true
		r.Status.Allowed = r.Spec.User == "web-alice" && r.Spec.ResourceAttributes != nil && r.Spec.ResourceAttributes.Resource == "configmaps"
		if r.Spec.User == "web-mallory" {
			r.Status.Denied, r.Status.Reason = true, "not from this shop"
		}
	})
	file := filepath.Join(t.TempDir(), "authorization.yaml")
	if err := os.WriteFile(file, []byte(authorizersHead+asking(kubeconfig)+ownAuthorizers), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := structured.Load(structured.Options{AuthorizationConfig: file}, "test")
	if err != nil {
		t.Fatal(err)
	}
	c := startWith(t, vfs.NewMem(), setup{authorizers: f})
	running, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- f.Run(running) }()
	_, err = c.system.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "reader"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}}}, metav1.CreateOptions{})
	fine(t, err)
	_, err = c.system.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "readers"},
		RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "web-mallory"},
			{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "viewer"}}}, metav1.CreateOptions{})
	fine(t, err)
	list := func(user string) error {
		_, err := c.as(t, user).CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{})
		return err
	}
	settle(t, func() error { return list("viewer") })
	fine(t, list("web-alice"))
	refused(t, list("web-mallory"), "not from this shop")
	refused(t, list("web-nobody"), `User "web-nobody" cannot list resource "configmaps"`)
	mu.Lock()
	if asked["viewer"] || !asked["web-nobody"] {
		t.Errorf("the webhook was asked for %v", asked)
	}
	mu.Unlock()
	rules, err := c.as(t, "viewer").AuthorizationV1().SelfSubjectRulesReviews().Create(ctx,
		&authorizationv1.SelfSubjectRulesReview{Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: "default"}}, metav1.CreateOptions{})
	if err != nil || !rules.Status.Incomplete || len(rules.Status.ResourceRules) == 0 {
		t.Errorf("rules %+v, %v", rules, err)
	}

	for _, text := range []string{"nonsense", authorizersHead + ownAuthorizers} {
		if err := os.WriteFile(file+".new", []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
	}
	settle(t, func() error { return list("web-mallory") })
	refused(t, list("web-alice"), `User "web-alice" cannot list resource "configmaps"`)
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// TestBadAuthorizers: mistakes in the file are named with it and the field.
func TestBadAuthorizers(t *testing.T) {
	kubeconfig := serveReviews(t, func(*authorizationv1.SubjectAccessReview) {})
	for text, want := range map[string]string{
		" []":                           "authorizers",
		"\n- {type: ABAC, name: abac}":  `authorizers[0].type: Unsupported value: "ABAC"`,
		"\n- {type: RBAC, name: roles}": "expected name rbac for authorizer RBAC instead of roles",
		"\n" + strings.Replace(asking(kubeconfig), "30s", "31s", 1):           "authorizers[0].timeout",
		"\n" + asking("/nowhere"):                                             "/nowhere",
		"\n" + strings.Replace(asking(kubeconfig), "request.user", "user", 1): "matchConditions[0].expression",
		"\n" + strings.Replace(asking(kubeconfig), "{type: KubeConfigFile, kubeConfigFile: "+kubeconfig+"}", "{type: InClusterConfig}", 1): "InClusterConfig",
	} {
		file := filepath.Join(t.TempDir(), "authorization.yaml")
		if err := os.WriteFile(file, []byte(strings.TrimSuffix(authorizersHead, "\n")+text), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := structured.Load(structured.Options{AuthorizationConfig: file}, "test")
		for _, part := range []string{want, "--authorization-config", "authorization.yaml"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", text, err, part)
			}
		}
	}
}

// TestTokenWebhook: a server of the user's says whose tokens are that nobody else knows, beside issuers of a file.
func TestTokenWebhook(t *testing.T) {
	p := serveProvider(t)
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	if err := os.WriteFile(file, []byte(p.believing("")), 0o600); err != nil {
		t.Fatal(err)
	}
	o := issuers.DefaultOptions()
	o.AuthenticationConfig = file
	var version string
	o.AuthenticationTokenWebhookConfigFile = serveReviews(t, func(r *authenticationv1.TokenReview) {
		version = r.APIVersion
		r.Status = authenticationv1.TokenReviewStatus{Authenticated: r.Spec.Token == "let-me-in",
			User: authenticationv1.UserInfo{Username: "hook", Groups: []string{"shop"}}}
	})
	trust, err := issuers.New(t.Context(), issuers.Config{Options: o, Issuer: authn.DefaultURL, Audiences: []string{authn.DefaultURL}, Server: "test"})
	if err != nil {
		t.Fatal(err)
	}
	c := startWith(t, vfs.NewMem(), setup{trust: trust})
	review := func(token string) (*authenticationv1.SelfSubjectReview, error) {
		return c.bearing(t, token).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	got, err := review("let-me-in")
	if err != nil || got.Status.UserInfo.Username != "hook" || strings.Join(got.Status.UserInfo.Groups, " ") != "shop system:authenticated" {
		t.Errorf("%+v, %v", got, err)
	}
	if version != "authentication.k8s.io/v1beta1" {
		t.Errorf("asked in %s", version)
	}
	if _, err := review("let-me-out"); !apierrors.IsUnauthorized(err) {
		t.Errorf("a token that nobody knows: %v", err)
	}
	settle(t, func() error { _, err := review(p.token(t, nil)); return err })
	o.AuthenticationTokenWebhookVersion = "v2"
	if err := o.Check(); err == nil || !strings.Contains(err.Error(), `--authentication-token-webhook-version "v2"`) {
		t.Error(err)
	}
}
