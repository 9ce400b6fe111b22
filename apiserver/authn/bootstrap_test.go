package authn

import (
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
)

func TestBootstrapTokens(t *testing.T) {
	now := time.Date(2026, 1, 2, 0, 0, 0, 0, time.UTC)
	good := map[string]string{"token-id": "abcdef", "token-secret": "0123456789abcdef", "usage-bootstrap-authentication": "true",
		"expiration": "2026-01-03T00:00:00Z", "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token"}
	for name, c := range map[string]struct {
		token  string
		change map[string]string
		user   string // empty: refused
		mine   bool   // whether it is an error, rather than another authenticator's business
	}{
		"good":            {token: "abcdef.0123456789abcdef", user: "system:bootstrap:abcdef"},
		"not one of ours": {token: "a.b.c"},
		"wrong secret":    {token: "abcdef.0123456789abcdee", mine: true},
		"unknown":         {token: "abcdee.0123456789abcdef", mine: true},
		"expired":         {token: "abcdef.0123456789abcdef", change: map[string]string{"expiration": "2026-01-01T00:00:00Z"}, mine: true},
		"never readable":  {token: "abcdef.0123456789abcdef", change: map[string]string{"expiration": "tomorrow"}, mine: true},
		"other usage":     {token: "abcdef.0123456789abcdef", change: map[string]string{"usage-bootstrap-authentication": "no"}, mine: true},
		"greedy":          {token: "abcdef.0123456789abcdef", change: map[string]string{"auth-extra-groups": "system:masters"}, mine: true},
	} {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-abcdef"},
			Type: corev1.SecretTypeBootstrapToken, Data: map[string][]byte{}}
		for _, data := range []map[string]string{good, c.change} {
			for k, v := range data {
				s.Data[k] = []byte(v)
			}
		}
		b := bootstrapTokens{fake.NewClientset(s), func() time.Time { return now }}
		r, ok, err := b.AuthenticateToken(t.Context(), c.token)
		if ok != (c.user != "") || (err != nil) != c.mine {
			t.Errorf("%s: %v, %v, %v", name, r, ok, err)
			continue
		}
		if err != nil && strings.Contains(err.Error(), "0123456789") {
			t.Errorf("%s: the error quotes the secret: %v", name, err)
		}
		if ok && (r.User.GetName() != c.user || strings.Join(r.User.GetGroups(), " ") != "system:bootstrappers system:bootstrappers:kubeadm:default-node-token") {
			t.Errorf("%s: stands for %v", name, r.User)
		}
	}
}
