package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/kubernetes"
)

// What a bootstrap token and its Secret look like; the API's names.
const (
	bootstrapUserPrefix   = "system:bootstrap:"
	bootstrapGroup        = "system:bootstrappers"
	bootstrapSecretPrefix = "bootstrap-token-"
)

var (
	bootstrapToken = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	extraGroup     = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

// errBadBootstrapToken says no more than that: not whether the token's ID exists.
var errBadBootstrapToken = errors.New("the bootstrap token is not valid")

// bootstrapTokens authenticates machines that join the cluster with a bootstrap token, whose Secret is in kube-system.
// The Secret is asked for each time: joining is rare, and no memory is spent on it.
type bootstrapTokens struct {
	client kubernetes.Interface
	now    func() time.Time
}

var _ authenticator.Token = bootstrapTokens{}

// AuthenticateToken says whom the token stands for. Its errors never quote the secret part.
func (b bootstrapTokens) AuthenticateToken(ctx context.Context, text string) (*authenticator.Response, bool, error) {
	parts := bootstrapToken.FindStringSubmatch(text)
	if parts == nil {
		return nil, false, nil
	}
	id, secret := parts[1], parts[2]
	s, err := b.client.CoreV1().Secrets(metav1.NamespaceSystem).Get(ctx, bootstrapSecretPrefix+id, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil, false, errBadBootstrapToken
	}
	if err != nil {
		return nil, false, fmt.Errorf("read bootstrap token %s: %w", id, err)
	}
	if s.DeletionTimestamp != nil || s.Type != corev1.SecretTypeBootstrapToken || string(s.Data["token-id"]) != id ||
		subtle.ConstantTimeCompare(s.Data["token-secret"], []byte(secret)) != 1 ||
		string(s.Data["usage-bootstrap-authentication"]) != "true" || b.expired(s) {
		return nil, false, errBadBootstrapToken
	}
	groups := []string{bootstrapGroup}
	for g := range strings.SplitSeq(string(s.Data["auth-extra-groups"]), ",") {
		if g == "" {
			continue
		}
		if !extraGroup.MatchString(g) {
			return nil, false, fmt.Errorf("bootstrap token %s: auth-extra-groups holds %q, which is no group of bootstrappers", id, g)
		}
		groups = append(groups, g)
	}
	slices.Sort(groups)
	return &authenticator.Response{User: &user.DefaultInfo{Name: bootstrapUserPrefix + id, Groups: slices.Compact(groups)}}, true, nil
}

// expired takes an expiration that cannot be read for one that has passed.
func (b bootstrapTokens) expired(s *corev1.Secret) bool {
	text := string(s.Data["expiration"])
	if text == "" {
		return false
	}
	at, err := time.Parse(time.RFC3339, text)
	return err != nil || !b.now().Before(at)
}
