package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/peapod/peapod/api/resource"
)

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

// bench is an issuer and an authenticator of its tokens, with a clock, an account and a Pod.
type bench struct {
	*tokens
	clock   *clocktesting.FakeClock
	account *corev1.ServiceAccount
	pod     *corev1.Pod
}

func newBench(t *testing.T, keys ...*ecdsa.PrivateKey) *bench {
	t.Helper()
	b := &bench{
		clock:   clocktesting.NewFakeClock(time.Now()),
		account: &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa", UID: "sa-uid"}},
		pod:     &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "pod", UID: "pod-uid"}},
	}
	if len(keys) == 0 {
		keys = []*ecdsa.PrivateKey{newKey(t)}
	}
	issuer, err := NewIssuer(IssuerConfig{Keys: keys, Clock: b.clock})
	if err != nil {
		t.Fatal(err)
	}
	client := fake.NewClientset(b.account, b.pod)
	core := informers.NewSharedInformerFactory(client, 0).Core().V1()
	b.tokens = &tokens{issuer: issuer, objects: objects{client: client, accounts: core.ServiceAccounts().Lister(),
		pods: core.Pods().Lister(), nodes: core.Nodes().Lister()}}
	return b
}

func (b *bench) issue(t *testing.T, bound *resource.BoundObject, seconds int64, audiences ...string) string {
	t.Helper()
	text, _, err := b.issuer.Issue(context.Background(), b.account, bound, audiences, seconds)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

func toPod() *resource.BoundObject {
	b := &resource.BoundObject{NodeName: "n1", NodeUID: "node-uid"}
	b.Kind, b.APIVersion, b.Name, b.UID = "Pod", "v1", "pod", "pod-uid"
	return b
}

// TestForgery: whatever differs from a token as it was issued is refused.
func TestForgery(t *testing.T) {
	b := newBench(t)
	good := b.issue(t, toPod(), 3600)
	if _, ok, err := b.AuthenticateToken(context.Background(), good); !ok || err != nil {
		t.Fatalf("a good token: %v, %v", ok, err)
	}
	parts := strings.Split(good, ".")
	encode := func(v any) string {
		data, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		return encoding.EncodeToString(data)
	}
	c := claims{}
	raw, err := encoding.DecodeString(parts[1])
	if err != nil || json.Unmarshal(raw, &c) != nil {
		t.Fatal("decode claims")
	}
	c.Private.Account.Name = "admin"
	c.Subject = "system:serviceaccount:ns:admin"
	otherIssuer, err := NewIssuer(IssuerConfig{Keys: []*ecdsa.PrivateKey{newKey(t)}, Clock: b.clock})
	if err != nil {
		t.Fatal(err)
	}
	foreign, _, err := otherIssuer.Issue(context.Background(), b.account, nil, nil, 3600)
	if err != nil {
		t.Fatal(err)
	}
	foreignParts := strings.Split(foreign, ".")
	for name, text := range map[string]string{
		"other claims":             parts[0] + "." + encode(c) + "." + parts[2],
		"no signature":             parts[0] + "." + parts[1] + ".",
		"algorithm none":           encode(map[string]string{"alg": "none"}) + "." + parts[1] + ".",
		"algorithm HS256":          encode(map[string]string{"alg": "HS256", "kid": b.issuer.kid}) + "." + parts[1] + "." + parts[2],
		"critical extension":       encode(map[string]any{"alg": "ES256", "kid": b.issuer.kid, "crit": []string{"exp"}}) + "." + parts[1] + "." + parts[2],
		"unknown key":              foreign,
		"another key by our name":  encode(header{Algorithm: "ES256", KeyID: b.issuer.kid}) + "." + foreignParts[1] + "." + foreignParts[2],
		"zero signature":           parts[0] + "." + parts[1] + "." + encoding.EncodeToString(make([]byte, 64)),
		"padding after signature":  good + "=",
		"four parts":               good + ".x",
		"signature of odd bits":    good[:len(good)-1] + "B",
		"something of a megabyte":  strings.Repeat("a", 1<<20),
		"empty":                    "",
		"two JSON values as claim": parts[0] + "." + encoding.EncodeToString(append(raw, '{', '}')) + "." + parts[2],
	} {
		if response, ok, err := b.AuthenticateToken(context.Background(), text); ok || response != nil {
			t.Errorf("%s: taken for %v, %v", name, response, err)
		} else if err != nil && strings.Contains(err.Error(), parts[2]) {
			t.Errorf("%s: the error quotes the token", name)
		}
	}
}

// TestLife: a token lives as long as it says, and no longer than what it is bound to.
func TestLife(t *testing.T) {
	ctx := context.Background()
	b := newBench(t)
	wait := func(text string, d time.Duration) error {
		b.clock.Step(d)
		defer b.clock.Step(-d)
		_, _, err := b.AuthenticateToken(ctx, text)
		return err
	}
	wants := func(err error, text string) {
		t.Helper()
		if text == "" && err != nil || text != "" && (err == nil || !strings.Contains(err.Error(), text)) {
			t.Errorf("got %v, want %q", err, text)
		}
	}
	plain := b.issue(t, nil, 600)
	wants(wait(plain, 9*time.Minute), "")
	wants(wait(plain, 12*time.Minute), "service account token has expired")
	wants(wait(plain, -2*time.Minute), "not valid yet")
	// The kubelet's hour stretches, for tokens of Pods for the server itself only.
	wants(wait(b.issue(t, toPod(), 3607), 300*24*time.Hour), "")
	wants(wait(b.issue(t, toPod(), 3600), 2*time.Hour), "expired")
	wants(wait(b.issue(t, nil, 3607), 2*time.Hour), "expired")
	_, _, err := b.AuthenticateToken(authenticator.WithAudiences(ctx, authenticator.Audiences{"vault"}), plain)
	wants(err, "is invalid for the target audiences")
	vault := b.issue(t, toPod(), 3607, "vault")
	_, _, err = b.AuthenticateToken(ctx, vault)
	wants(err, `token audiences ["vault"] is invalid for the target audiences`)

	bound := b.issue(t, toPod(), 3600)
	pods := b.objects.client.CoreV1().Pods("ns")
	going := b.pod.DeepCopy()
	soon := metav1.NewTime(b.clock.Now().Add(30 * time.Second))
	going.DeletionTimestamp = &soon
	if _, err := pods.Update(ctx, going, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(wait(bound, 0), "")
	wants(wait(bound, time.Minute), "")
	wants(wait(bound, 2*time.Minute), "service account token has been invalidated")
	if err := pods.Delete(ctx, "pod", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(wait(bound, 0), "service account token has been invalidated")
	wants(wait(plain, 0), "")
	other := b.account.DeepCopy()
	other.UID = "another"
	if _, err := b.objects.client.CoreV1().ServiceAccounts("ns").Update(ctx, other, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	wants(wait(plain, 0), "service account UID (another) does not match claim (sa-uid)")
	node := &resource.BoundObject{}
	node.Kind, node.Name, node.UID = "Node", "n1", "u"
	b.account = other
	wants(wait(b.issue(t, node, 600), 0), "service account token has been invalidated")
}

// TestRotation: a key that no longer signs still verifies.
func TestRotation(t *testing.T) {
	old, fresh := newKey(t), newKey(t)
	text := newBench(t, old).issue(t, nil, 3600)
	b := newBench(t, fresh, old)
	if _, ok, err := b.AuthenticateToken(context.Background(), text); !ok || err != nil {
		t.Errorf("token of the earlier key: %v, %v", ok, err)
	}
	if _, err := b.issuer.verify(text); err != nil {
		t.Error(err)
	}
	if _, err := newBench(t, fresh).issuer.verify(text); err == nil || errors.Is(err, errNotOurs) {
		t.Errorf("token of a key that is gone: %v", err)
	}
}

// TestDiscovery: the documents are what OpenID Connect clients expect.
func TestDiscovery(t *testing.T) {
	i, err := NewIssuer(IssuerConfig{URL: "https://a.example/x/", Keys: []*ecdsa.PrivateKey{newKey(t), newKey(t)}})
	if err != nil {
		t.Fatal(err)
	}
	get := func(path string, into any) {
		t.Helper()
		w := httptest.NewRecorder()
		i.Handlers()[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
		if err := json.Unmarshal(w.Body.Bytes(), into); w.Code != 200 || err != nil {
			t.Errorf("%s: %d, %v", path, w.Code, err)
		}
	}
	var about map[string]any
	get("/.well-known/openid-configuration", &about)
	if about["issuer"] != "https://a.example/x/" || about["jwks_uri"] != "https://a.example/x/openid/v1/jwks" {
		t.Errorf("configuration: %v", about)
	}
	var set struct{ Keys []map[string]string }
	get("/openid/v1/jwks", &set)
	if len(set.Keys) != 2 || set.Keys[0]["crv"] != "P-256" || len(set.Keys[0]["x"]) != 43 || set.Keys[0]["kid"] != i.kid {
		t.Errorf("keys: %v", set)
	}
	w := httptest.NewRecorder()
	i.Handlers()["/openid/v1/jwks"].ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/openid/v1/jwks", nil))
	if w.Code != http.StatusMethodNotAllowed {
		t.Errorf("POST: %d", w.Code)
	}
}
