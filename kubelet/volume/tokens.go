package volume

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"
)

// A token is renewed when a fifth of its life is left, and at the latest after a day.
const maxTokenAge = 24 * time.Hour

// tokens are the service-account tokens that are in use. Those of an earlier process are asked for anew.
type tokens struct {
	client kubernetes.Interface
	clock  clock.Clock

	mu   sync.Mutex
	held map[tokenKey]heldToken
}

type tokenKey struct {
	uid               types.UID
	account, audience string
	seconds           int64
}

type heldToken struct {
	authenticationv1.TokenRequestStatus
	renew time.Time
}

func newTokens(client kubernetes.Interface, c clock.Clock) *tokens {
	return &tokens{client: client, clock: c, held: map[tokenKey]heldToken{}}
}

// get returns a token for the Pod that is not due for renewal, and when it will be.
func (t *tokens) get(ctx context.Context, p *v1.Pod, s *v1.ServiceAccountTokenProjection) (string, time.Time, error) {
	have, err := t.hold(ctx, p, s.Audience, s.ExpirationSeconds)
	return have.Token, have.renew, err
}

// status is get with what is known of the token.
func (t *tokens) status(ctx context.Context, p *v1.Pod, audience string, seconds *int64) (authenticationv1.TokenRequestStatus, error) {
	have, err := t.hold(ctx, p, audience, seconds)
	return have.TokenRequestStatus, err
}

func (t *tokens) hold(ctx context.Context, p *v1.Pod, audience string, expiration *int64) (heldToken, error) {
	seconds := int64(3600)
	if expiration != nil {
		seconds = *expiration
	}
	key := tokenKey{p.UID, p.Spec.ServiceAccountName, audience, seconds}
	now := t.clock.Now()
	t.mu.Lock()
	have, ok := t.held[key]
	t.mu.Unlock()
	if ok && now.Before(have.renew) {
		return have, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: p.Name, UID: p.UID},
	}}
	if audience != "" {
		request.Spec.Audiences = []string{audience}
	}
	got, err := t.client.CoreV1().ServiceAccounts(p.Namespace).CreateToken(ctx, p.Spec.ServiceAccountName, request, metav1.CreateOptions{})
	if err != nil {
		return heldToken{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	life := got.Status.ExpirationTimestamp.Sub(now)
	have = heldToken{got.Status, now.Add(min(life*4/5, maxTokenAge))}
	t.mu.Lock()
	t.held[key] = have
	t.mu.Unlock()
	return have, nil
}

// forget drops the Pod's tokens.
func (t *tokens) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.held {
		if k.uid == uid {
			delete(t.held, k)
		}
	}
}
