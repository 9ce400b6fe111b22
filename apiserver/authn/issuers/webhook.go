package issuers

import (
	"fmt"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	tokencache "k8s.io/apiserver/pkg/authentication/token/cache"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/webhook"
)

// newWebhook makes an authenticator that asks a server of the user's whose a token is (TokenReview); nil if there is none.
func newWebhook(c Config) (authenticator.Token, error) {
	file := c.AuthenticationTokenWebhookConfigFile
	if file == "" {
		return nil, nil
	}
	config, err := webhookutil.LoadKubeconfig(file, nil)
	if err != nil {
		return nil, fmt.Errorf("--%s %q: %w", webhookFlag, file, err)
	}
	asked, err := webhook.New(config, c.AuthenticationTokenWebhookVersion, c.Audiences, *webhook.DefaultRetryBackoff())
	if err != nil {
		return nil, fmt.Errorf("--%s %q: %w", webhookFlag, file, err)
	}
	ttl := c.AuthenticationTokenWebhookCacheTTL.Duration
	return tokencache.New(asked, false, ttl, ttl), nil
}
