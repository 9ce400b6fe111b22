// Package hooks asks what users have installed to be asked about requests: webhooks, and policies written in CEL. The work is
// k8s.io/apiserver's; this package gives its plugins what they need, when they are needed.
package hooks

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	mutatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	validatingwebhook "k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Config is what hooks are asked with. What is not marked optional must be set.
type Config struct {
	// Client and Dynamic are those of a member of system:masters.
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
	// Informers has not been started yet.
	Informers informers.SharedInformerFactory
	// Kinds finds the resources of the parameters of policies.
	Kinds meta.RESTMapper
	// Authorizer answers the expressions that ask what the user may do.
	Authorizer authorizer.Authorizer
	// Services finds webhooks.
	Services webhook.ServiceResolver
	// MutatingWebhooks and ValidatingWebhooks are the plugins' configurations, which say who the server is to webhooks. Optional.
	MutatingWebhooks, ValidatingWebhooks []byte
	// Ended is closed once the server answers no more requests.
	Ended <-chan struct{}
}

// Hooks are the plugins, in the order in which they are asked.
type Hooks struct {
	MutatingPolicies, MutatingWebhooks, ValidatingPolicies, ValidatingWebhooks *OnUse
}

// New makes the plugins.
func New(cfg Config) (*Hooks, error) {
	if cfg.Client == nil || cfg.Dynamic == nil || cfg.Informers == nil || cfg.Kinds == nil || cfg.Authorizer == nil || cfg.Services == nil ||
		cfg.Ended == nil {
		return nil, errors.New("make admission hooks: Client, Dynamic, Informers, Kinds, Authorizer, Services and Ended are needed")
	}
	h := &Hooks{}
	objects := cfg.Informers.Admissionregistration().V1()
	// A policy that nothing binds is not asked.
	for _, p := range []struct {
		to       **OnUse
		name     string
		informer cache.SharedIndexInformer
		make     maker
	}{
		{&h.MutatingPolicies, mutating.PluginName, objects.MutatingAdmissionPolicyBindings().Informer(), cfg.mutatingPolicies},
		{&h.MutatingWebhooks, mutatingwebhook.PluginName, objects.MutatingWebhookConfigurations().Informer(), cfg.mutatingWebhooks},
		{&h.ValidatingPolicies, validating.PluginName, objects.ValidatingAdmissionPolicyBindings().Informer(), cfg.validatingPolicies},
		{&h.ValidatingWebhooks, validatingwebhook.PluginName, objects.ValidatingWebhookConfigurations().Informer(), cfg.validatingWebhooks},
	} {
		plugin, err := newOnUse(p.name, p.informer, cfg.Ended, p.make)
		if err != nil {
			return nil, fmt.Errorf("make admission plugin %s: %w", p.name, err)
		}
		*p.to = plugin
	}
	return h, nil
}
