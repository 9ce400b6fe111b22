package admission_test

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
	authenticationv1 "k8s.io/api/authentication/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-base/metrics/legacyregistry"

	"github.com/peapod/peapod/apiserver/authn"
	"github.com/peapod/peapod/apiserver/authn/issuers"
)

// provider is an OpenID Connect provider on loopback.
type provider struct {
	*httptest.Server
	key *ecdsa.PrivateKey
}

func serveProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{}
	var err error
	if p.key, err = ecdsa.GenerateKey(elliptic.P256(), rand.Reader); err != nil {
		t.Fatal(err)
	}
	point, err := p.key.PublicKey.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	answers := map[string]func() any{
		"/.well-known/openid-configuration": func() any {
			return map[string]any{"issuer": p.URL, "jwks_uri": p.URL + "/keys", "id_token_signing_alg_values_supported": []string{"ES256"}}
		},
		"/keys": func() any {
			return map[string]any{"keys": []any{map[string]any{"kty": "EC", "crv": "P-256", "alg": "ES256", "use": "sig", "kid": "1",
				"x": base64.RawURLEncoding.EncodeToString(point[1:33]), "y": base64.RawURLEncoding.EncodeToString(point[33:])}}}
		},
	}
	p.Server = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answer := answers[r.URL.Path]
		if answer == nil {
			http.NotFound(w, r)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(answer()) // the client may be gone
	}))
	t.Cleanup(p.Close)
	return p
}

// token is one with these claims over those of alice.
func (p *provider) token(t *testing.T, claims map[string]any) string {
	t.Helper()
	all := map[string]any{"iss": p.URL, "aud": "peapod", "sub": "alice", "teams": []string{"ops"}, "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix()}
	for k, v := range claims {
		all[k] = v
	}
	part := func(v any) string {
		b, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return base64.RawURLEncoding.EncodeToString(b)
	}
	signed := part(map[string]any{"alg": "ES256", "kid": "1", "typ": "JWT"}) + "." + part(all)
	digest := sha256.Sum256([]byte(signed))
	r, s, err := ecdsa.Sign(rand.Reader, p.key, digest[:])
	if err != nil {
		t.Fatal(err)
	}
	signature := append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
	return signed + "." + base64.RawURLEncoding.EncodeToString(signature)
}

// believing is a file that believes the provider, with more at its end.
func (p *provider) believing(more string) string {
	ca := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: p.Certificate().Raw}))
	return `apiVersion: apiserver.config.k8s.io/v1
kind: AuthenticationConfiguration
jwt:
- issuer:
    url: ` + p.URL + `
    audiences: [peapod]
    certificateAuthority: |
      ` + strings.ReplaceAll(strings.TrimSpace(ca), "\n", "\n      ") + `
  claimMappings:
    username: {expression: "'oidc:' + claims.sub"}
    groups: {claim: teams, prefix: team-}
  claimValidationRules:
  - {expression: "claims.sub != 'mallory'", message: not you}
` + more
}

// trusting is what a file says that believes the provider, with more at its end.
func (p *provider) trusting(t *testing.T, more string) (issuers.Trust, error) {
	t.Helper()
	return trusting(t, filepath.Join(t.TempDir(), "authentication.yaml"), p.believing(more))
}

// trusting is what the file says with this text.
func trusting(t *testing.T, file, text string) (issuers.Trust, error) {
	t.Helper()
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	o := issuers.DefaultOptions()
	o.AuthenticationConfig = file
	return issuers.New(t.Context(), issuers.Config{Options: o, Issuer: authn.DefaultURL, Audiences: []string{authn.DefaultURL}, Server: "test"})
}

// TestIssuers: bearers of a provider's tokens are the users and groups that the file makes of them, and may do what roles allow those.
func TestIssuers(t *testing.T) {
	p := serveProvider(t)
	trust, err := p.trusting(t, "anonymous: {enabled: true, conditions: [{path: /livez}]}\n")
	if err != nil {
		t.Fatal(err)
	}
	c := startWith(t, vfs.NewMem(), setup{trust: trust})
	ctx := t.Context()
	_, err = c.system.RbacV1().ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "ops"},
		Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{"configmaps"}, Verbs: []string{"list"}}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	_, err = c.system.RbacV1().ClusterRoleBindings().Create(ctx, &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "ops"},
		RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "ops"},
		Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.GroupKind, Name: "team-ops"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	review := func(token string) (*authenticationv1.SelfSubjectReview, error) {
		return c.bearing(t, token).AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	}
	// Each try has a token of its own, for answers are remembered. The keys are on their way.
	var got *authenticationv1.SelfSubjectReview
	for deadline := time.Now().Add(time.Minute); ; {
		if got, err = review(p.token(t, nil)); err == nil {
			break
		}
		if !apierrors.IsUnauthorized(err) || time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
	if u := got.Status.UserInfo; u.Username != "oidc:alice" || strings.Join(u.Groups, " ") != "team-ops system:authenticated" {
		t.Errorf("alice is %+v", u)
	}
	alice := c.bearing(t, p.token(t, nil))
	for deadline := time.Now().Add(time.Minute); ; { // that the role is known is an event of the server's own
		if _, err := alice.CoreV1().ConfigMaps("default").List(ctx, metav1.ListOptions{}); err == nil {
			break
		} else if !apierrors.IsForbidden(err) || time.Now().After(deadline) {
			t.Fatalf("what the role allows: %v", err)
		}
	}
	if _, err := alice.CoreV1().Secrets("default").List(ctx, metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("what no role allows: %v", err)
	}
	other := serveProvider(t)
	for what, token := range map[string]string{
		"another audience": p.token(t, map[string]any{"aud": "other"}), "expired": p.token(t, map[string]any{"exp": time.Now().Add(-time.Hour).Unix()}),
		"a rule of the file": p.token(t, map[string]any{"sub": "mallory"}), "another issuer": other.token(t, nil),
		"another's key": other.token(t, map[string]any{"iss": p.URL}),
	} {
		if _, err := review(token); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %v", what, err)
		}
	}
	for path, allowed := range map[string]bool{"/livez": true, "/version": false} {
		_, err := c.bearing(t, "").CoreV1().RESTClient().Get().AbsPath(path).DoRaw(ctx)
		if (err == nil) != allowed || !allowed && !apierrors.IsUnauthorized(err) {
			t.Errorf("%s without a credential: %v", path, err)
		}
	}
}

// TestBadIssuers: mistakes in the file are named with it and the field.
func TestBadIssuers(t *testing.T) {
	p := serveProvider(t)
	for more, want := range map[string]string{
		"- issuer: {url: \"" + authn.DefaultURL + "\", audiences: [a]}\n  claimMappings: {username: {claim: sub, prefix: \"\"}}\n": "jwt[1].issuer.url",
		"- issuer: {url: \"http://x\", audiences: [a]}\n  claimMappings: {username: {claim: sub, prefix: \"\"}}\n":                 "jwt[1].issuer.url",
		"- issuer: {url: \"https://x\", audiences: [a]}\n  claimMappings: {username: {expression: \"claims.\"}}\n":                 "jwt[1].claimMappings.username.expression",
		"anonymous: {enabled: false, conditions: [{path: /x}]}\n":                                                                  "anonymous.conditions",
		"anonymus: {}\n": "anonymus",
	} {
		_, err := p.trusting(t, more)
		for _, part := range []string{want, "--authentication-config", "authentication.yaml"} {
			if err == nil || !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %v does not say %q", more, err, part)
			}
		}
	}
	o := issuers.DefaultOptions()
	o.AnonymousAuth = false
	if trust, err := issuers.New(t.Context(), issuers.Config{Options: o}); err != nil || trust.Anonymous == nil || trust.Anonymous.Enabled || trust.Tokens != nil {
		t.Errorf("--anonymous-auth=false: %+v, %v", trust, err)
	}
}

// TestIssuersReload: a change of the file counts once its issuers have answered, for those who are believed no longer too; one that
// makes no sense, or changes where nobody in particular may go, does not.
func TestIssuersReload(t *testing.T) {
	first, second := serveProvider(t), serveProvider(t)
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	trust, err := trusting(t, file, first.believing(""))
	if err != nil {
		t.Fatal(err)
	}
	failures, successes := reloads(t, "failure"), reloads(t, "success")
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- trust.Run(ctx) }()
	until := func(what string, done func() bool) {
		t.Helper()
		for deadline := time.Now().Add(time.Minute); !done(); runtime.Gosched() {
			if time.Now().After(deadline) {
				t.Fatal(what)
			}
		}
	}
	believed := func(p *provider) bool {
		_, ok, err := trust.Tokens.AuthenticateToken(t.Context(), p.token(t, nil))
		return ok && err == nil
	}
	until("the first is not believed", func() bool { return believed(first) })
	for i, bad := range []string{"nonsense", second.believing("anonymous: {enabled: false}\n")} {
		if err := os.WriteFile(file+".new", []byte(bad), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(file+".new", file); err != nil {
			t.Fatal(err)
		}
		until("a bad file is not noticed", func() bool { return reloads(t, "failure")-failures == float64(i+1) })
	}
	if !believed(first) || believed(second) {
		t.Errorf("bad files: the first is believed: %t, the second: %t", believed(first), believed(second))
	}
	if err := os.WriteFile(file+".new", []byte(second.believing("")), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	until("the second is not believed", func() bool { return believed(second) })
	if believed(first) {
		t.Error("the first is believed still")
	}
	until("the change is not counted", func() bool { return reloads(t, "success")-successes == 1 })
	stop()
	if err := <-ended; err != nil {
		t.Error(err)
	}
}

// reloads is how often the authentication file has been read anew with this result.
func reloads(t *testing.T, status string) (n float64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if f.GetName() != "apiserver_authentication_config_controller_automatic_reloads_total" {
			continue
		}
		for _, m := range f.Metric {
			for _, l := range m.Label {
				if l.GetName() == "status" && l.GetValue() == status {
					n += m.Counter.GetValue()
				}
			}
		}
	}
	return n
}
