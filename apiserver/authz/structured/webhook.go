package structured

import (
	"time"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/cel"
	webhookutil "k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook"
	"k8s.io/apiserver/plugin/pkg/authorizer/webhook/metrics"
)

// webhookMetrics are those that kube-apiserver has.
type webhookMetrics struct {
	metrics.NoopRequestMetrics
	metrics.WebhookMetrics
	cel.MatcherMetrics
}

// webhook makes an authorizer that asks a server of the user's. The kubeconfig that says where that is is read once.
func (f *File) webhook(a apiserver.AuthorizerConfiguration) (*webhook.WebhookAuthorizer, error) {
	says := a.Webhook
	config, err := webhookutil.LoadKubeconfig(*says.ConnectionInfo.KubeConfigFile, nil)
	if err != nil {
		return nil, err
	}
	config.Timeout = says.Timeout.Duration
	onError := authorizer.DecisionNoOpinion
	if says.FailurePolicy == apiserver.FailurePolicyDeny {
		onError = authorizer.DecisionDeny
	}
	remembered := func(d time.Duration, wanted bool) time.Duration {
		if !wanted {
			return 0
		}
		return d
	}
	return webhook.New(config, says.SubjectAccessReviewVersion,
		remembered(says.AuthorizedTTL.Duration, says.CacheAuthorizedRequests),
		remembered(says.UnauthorizedTTL.Duration, says.CacheUnauthorizedRequests),
		*webhook.DefaultRetryBackoff(), onError, says.MatchConditions, a.Name,
		webhookMetrics{WebhookMetrics: metrics.NewWebhookMetrics(), MatcherMetrics: cel.NewMatcherMetrics()}, f.compiler)
}
