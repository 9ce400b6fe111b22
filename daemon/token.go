package daemon

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"encoding/base32"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/peapod/peapod/apiserver/pki"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/daemon/join"
)

// JoinToken is a token with which machines join, as it is listed: without its secret.
type JoinToken struct {
	ID, Description string
	// Expires is zero for a token without an end.
	Expires time.Time
}

const (
	tokenSecretPrefix = "bootstrap-token-"
	tokenGroup        = "system:bootstrappers:kubeadm:default-node-token"
)

// admin returns a client with the administrator's rights, of the server of this data directory.
func admin(i instance.Instance) (kubernetes.Interface, *rest.Config, error) {
	cfg, err := clientcmd.BuildConfigFromFlags("", i.Kubeconfig())
	if err != nil {
		return nil, nil, fmt.Errorf("find the server of %s: %w; run this where the server runs, with its --data-dir", i.DataDir, err)
	}
	client, err := kubernetes.NewForConfig(cfg)
	return client, cfg, err
}

// CreateToken makes a token with which machines may join for that long, for ever if zero, and returns it with the
// address to join at.
func CreateToken(ctx context.Context, i instance.Instance, ttl time.Duration, description string) (token, server string, err error) {
	client, cfg, err := admin(i)
	if err != nil {
		return "", "", err
	}
	block, _ := pem.Decode(cfg.CAData)
	if block == nil {
		return "", "", errors.New("read the cluster's authority: the kubeconfig holds none")
	}
	ca, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "", "", fmt.Errorf("read the cluster's authority: %w", err)
	}
	t := join.Token{ID: letters(6), Secret: letters(16), Pin: pki.PinOf(ca)}
	s := &corev1.Secret{Type: corev1.SecretTypeBootstrapToken,
		ObjectMeta: metav1.ObjectMeta{Namespace: metav1.NamespaceSystem, Name: tokenSecretPrefix + t.ID},
		StringData: map[string]string{"token-id": t.ID, "token-secret": t.Secret, "usage-bootstrap-authentication": "true",
			"auth-extra-groups": tokenGroup}}
	if ttl > 0 {
		s.StringData["expiration"] = time.Now().UTC().Add(ttl).Format(time.RFC3339)
	}
	if description != "" {
		s.StringData["description"] = description
	}
	if _, err := client.CoreV1().Secrets(s.Namespace).Create(ctx, s, metav1.CreateOptions{}); err != nil {
		return "", "", fmt.Errorf("store token: %w", err)
	}
	return t.String(), joinAddress(i, cfg), nil
}

// joinAddress is where other machines reach the server: its own address, which the kubeconfig may call loopback.
func joinAddress(i instance.Instance, cfg *rest.Config) string {
	u, err := url.Parse(cfg.Host)
	if err != nil {
		return cfg.Host
	}
	at, err := netip.ParseAddr(u.Hostname())
	if err != nil || !at.IsLoopback() {
		return cfg.Host
	}
	cluster, _, err := i.Ranges()
	if err != nil {
		return cfg.Host
	}
	ip, err := machineAddress(at.Is6(), cluster)
	if err != nil {
		return cfg.Host
	}
	return "https://" + net.JoinHostPort(ip.String(), u.Port())
}

// ListTokens returns the tokens that there are, by ID.
func ListTokens(ctx context.Context, i instance.Instance) ([]JoinToken, error) {
	client, _, err := admin(i)
	if err != nil {
		return nil, err
	}
	list, err := client.CoreV1().Secrets(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{
		FieldSelector: fields.OneTermEqualSelector("type", string(corev1.SecretTypeBootstrapToken)).String()})
	if err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	var tokens []JoinToken
	for _, s := range list.Items {
		t := JoinToken{ID: string(s.Data["token-id"]), Description: string(s.Data["description"])}
		if at, err := time.Parse(time.RFC3339, string(s.Data["expiration"])); err == nil {
			t.Expires = at
		}
		tokens = append(tokens, t)
	}
	slices.SortFunc(tokens, func(a, b JoinToken) int { return strings.Compare(a.ID, b.ID) })
	return tokens, nil
}

// DeleteToken deletes a token, named by its ID or in full; deleted says whether it was there. Nodes that have joined with
// it stay.
func DeleteToken(ctx context.Context, i instance.Instance, token string) (deleted bool, err error) {
	client, _, err := admin(i)
	if err != nil {
		return false, err
	}
	id, _, _ := strings.Cut(token, ".")
	if len(id) != 6 {
		return false, errors.New("name the token by its ID, the six characters before the first dot")
	}
	err = client.CoreV1().Secrets(metav1.NamespaceSystem).Delete(ctx, tokenSecretPrefix+id, metav1.DeleteOptions{})
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("delete token %s: %w", id, err)
	}
	return true, nil
}

// letters returns n random characters of a-z and 2-7.
func letters(n int) string {
	b := make([]byte, n)
	rand.Read(b) // never fails
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))[:n]
}
