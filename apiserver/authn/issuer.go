package authn

import (
	"context"
	"crypto/ecdsa"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/api/resource"
)

// DefaultURL is the name of the cluster's issuer of tokens.
const DefaultURL = "https://kubernetes.default.svc.cluster.local"

// IssuerConfig says who issues service-account tokens.
type IssuerConfig struct {
	// URL is the issuer's name in tokens: DefaultURL if empty.
	URL string
	// KeysURL is where clients find the public keys; URL + /openid/v1/jwks if empty.
	KeysURL string
	// Audiences are those of the API server itself: what a request that names none gets, and what a token must be for
	// to be good here. URL if empty.
	Audiences []string
	// Keys are the signing keys: the first signs, all verify.
	Keys []*ecdsa.PrivateKey
	// Clock is the time; the real one if nil.
	Clock clock.PassiveClock
}

// Issuer issues service-account tokens and knows its own again.
type Issuer struct {
	cfg   IssuerConfig
	kid   string
	keys  map[string]*ecdsa.PublicKey
	jwks  []byte
	about []byte
}

var _ resource.TokenIssuer = &Issuer{}

const (
	// extendable is the life in seconds that the kubelet asks for in the token of every Pod. Such a token is made to
	// live for extended seconds, in case the program in the Pod reads its file only once; past the asked-for life its
	// use is noted. The token dies with its Pod in any case.
	extendable = 60*60 + 7
	extended   = 24 * 365 * 60 * 60
)

// NewIssuer makes an issuer.
func NewIssuer(cfg IssuerConfig) (*Issuer, error) {
	if len(cfg.Keys) == 0 {
		return nil, errors.New("make token issuer: no key given")
	}
	if cfg.URL == "" {
		cfg.URL = DefaultURL
	}
	if u, err := url.Parse(cfg.URL); err != nil || u.Scheme != "https" || u.Host == "" {
		return nil, fmt.Errorf("make token issuer: issuer %q is not an https URL", cfg.URL)
	}
	if cfg.KeysURL == "" {
		cfg.KeysURL = strings.TrimSuffix(cfg.URL, "/") + "/openid/v1/jwks"
	}
	if len(cfg.Audiences) == 0 {
		cfg.Audiences = []string{cfg.URL}
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	i := &Issuer{cfg: cfg, keys: map[string]*ecdsa.PublicKey{}}
	return i, i.publish()
}

// publish names the keys and makes the discovery documents.
func (i *Issuer) publish() error {
	var set struct {
		Keys []webKey `json:"keys"`
	}
	for n, key := range i.cfg.Keys {
		kid, err := keyID(&key.PublicKey)
		if err != nil {
			return err
		}
		if n == 0 {
			i.kid = kid
		}
		i.keys[kid] = &key.PublicKey
		k, err := newWebKey(&key.PublicKey, kid)
		if err != nil {
			return err
		}
		set.Keys = append(set.Keys, k)
	}
	var err error
	if i.jwks, err = json.Marshal(set); err != nil {
		return fmt.Errorf("encode token keys: %w", err)
	}
	i.about, err = json.Marshal(map[string]any{
		"issuer": i.cfg.URL, "jwks_uri": i.cfg.KeysURL, "response_types_supported": []string{"id_token"},
		"subject_types_supported": []string{"public"}, "id_token_signing_alg_values_supported": []string{algorithm},
	})
	if err != nil {
		return fmt.Errorf("encode issuer metadata: %w", err)
	}
	return nil
}

// claims are what a token says (RFC 7519 and KEP-1205).
type claims struct {
	Issuer    string   `json:"iss,omitempty"`
	Subject   string   `json:"sub,omitempty"`
	Audience  audience `json:"aud,omitempty"`
	Expiry    int64    `json:"exp,omitempty"`
	NotBefore int64    `json:"nbf,omitempty"`
	IssuedAt  int64    `json:"iat,omitempty"`
	ID        string   `json:"jti,omitempty"`
	Private   *private `json:"kubernetes.io,omitempty"`
}

// private says which objects the token depends on.
type private struct {
	Namespace string     `json:"namespace,omitempty"`
	Account   reference  `json:"serviceaccount"`
	Pod       *reference `json:"pod,omitempty"`
	Secret    *reference `json:"secret,omitempty"`
	Node      *reference `json:"node,omitempty"`
	WarnAfter int64      `json:"warnafter,omitempty"`
}

type reference struct {
	Name string    `json:"name,omitempty"`
	UID  types.UID `json:"uid,omitempty"`
}

// audience is one string or several (RFC 7519, 4.1.3).
type audience []string

func (a *audience) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audience{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// DefaultAudiences is what a request that names none gets.
func (i *Issuer) DefaultAudiences() []string { return slices.Clone(i.cfg.Audiences) }

// Issue returns a token for account. The caller has checked bound and seconds.
func (i *Issuer) Issue(_ context.Context, account *corev1.ServiceAccount, bound *resource.BoundObject, audiences []string, seconds int64) (string, time.Time, error) {
	now := i.cfg.Clock.Now()
	if len(audiences) == 0 {
		audiences = i.cfg.Audiences
	}
	c := claims{
		Issuer: i.cfg.URL, Subject: serviceaccount.MakeUsername(account.Namespace, account.Name), Audience: audiences,
		Expiry: now.Unix() + seconds, NotBefore: now.Unix(), IssuedAt: now.Unix(), ID: string(uuid.NewUUID()),
		Private: &private{Namespace: account.Namespace, Account: reference{Name: account.Name, UID: account.UID}},
	}
	if bound != nil {
		ref := &reference{Name: bound.Name, UID: bound.UID}
		switch bound.Kind {
		case "Pod":
			c.Private.Pod = ref
			if bound.NodeName != "" {
				c.Private.Node = &reference{Name: bound.NodeName, UID: bound.NodeUID}
			}
			if seconds == extendable && i.isForServer(audiences) {
				c.Private.WarnAfter, c.Expiry = c.Expiry, now.Unix()+extended
			}
		case "Secret":
			c.Private.Secret = ref
		case "Node":
			c.Private.Node = ref
		default:
			return "", time.Time{}, fmt.Errorf("issue token: it cannot be bound to a %s", bound.Kind)
		}
	}
	text, err := sign(i.cfg.Keys[0], i.kid, c)
	if err != nil {
		return "", time.Time{}, err
	}
	return text, now.Add(time.Duration(seconds) * time.Second), nil
}

// isForServer says whether all audiences are the API server's.
func (i *Issuer) isForServer(audiences []string) bool {
	return len(authenticator.Audiences(audiences).Intersect(i.cfg.Audiences)) == len(audiences)
}

// verify returns the claims of a token that this issuer signed. It fails with errNotOurs where another authenticator
// may know better. Times, audiences and objects are for the caller to check.
func (i *Issuer) verify(text string) (*claims, error) {
	t, err := parse(text)
	if err != nil {
		return nil, err
	}
	// The issuer is looked at first, unverified, to leave other issuers' tokens to others.
	var c claims
	if err := decodeStrictly(t.claims, &c); err != nil || c.Issuer != i.cfg.URL {
		return nil, errNotOurs
	}
	key, known := i.keys[t.header.KeyID]
	if !known || !t.signedBy(key) {
		return nil, errors.New("invalid signature on service account token")
	}
	return &c, nil
}

// Handlers returns the documents of OpenID Connect discovery, by path.
func (i *Issuer) Handlers() map[string]http.Handler {
	serve := func(contentType string, body []byte) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if r.Method != http.MethodGet && r.Method != http.MethodHead {
				w.Header().Set("Allow", "GET, HEAD")
				http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
				return
			}
			w.Header().Set("Content-Type", contentType)
			w.Header().Set("Cache-Control", "public, max-age=3600")
			_, _ = w.Write(body) // a client that has gone is nobody's concern
		})
	}
	return map[string]http.Handler{
		"/.well-known/openid-configuration": serve("application/json", i.about),
		"/openid/v1/jwks":                   serve("application/jwk-set+json", i.jwks),
	}
}
