package hooks

import (
	"context"
	"fmt"

	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/admission/plugin/policy/generic"
	"k8s.io/apiserver/pkg/admission/plugin/policy/matching"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/api/resource"
)

func (cfg Config) validatingPolicies(ctx context.Context) (waiter, error) {
	p, err := validating.NewPlugin(nil)
	if err != nil {
		return nil, fmt.Errorf("make plugin of validating policies: %w", err)
	}
	return p, begin(ctx, cfg, p.Plugin)
}

// mutatingPolicies makes the plugin as k8s.io/apiserver does, but for the schemas: see there.
func (cfg Config) mutatingPolicies(ctx context.Context) (waiter, error) {
	p := &mutating.Plugin{Plugin: generic.NewPlugin(
		admission.NewHandler(admission.Create, admission.Update, admission.Connect),
		func(f informers.SharedInformerFactory, _ kubernetes.Interface, d dynamic.Interface, kinds meta.RESTMapper) generic.Source[mutating.PolicyHook] {
			objects := f.Admissionregistration().V1()
			return generic.NewPolicySource(
				objects.MutatingAdmissionPolicies().Informer(), objects.MutatingAdmissionPolicyBindings().Informer(),
				mutating.NewMutatingAdmissionPolicyAccessor, mutating.NewMutatingAdmissionPolicyBindingAccessor,
				compile, f, d, kinds)
		},
		func(a authorizer.UnconditionalAuthorizer, m *matching.Matcher, client kubernetes.Interface) generic.Dispatcher[mutating.PolicyHook] {
			return mutating.NewDispatcher(a, m, newSchemas(client.Discovery().OpenAPIV3()))
		},
	)}
	p.SetEnabled(true)
	return p, begin(ctx, cfg, p.Plugin)
}

// begin starts a plugin of policies, until ctx ends.
func begin[H any](ctx context.Context, cfg Config, p *generic.Plugin[H]) error {
	own := cfg.ownInformers()
	p.SetDrainedNotification(ctx.Done())
	p.SetExternalKubeClientSet(cfg.Client)
	p.SetExternalKubeInformerFactory(own)
	p.SetDynamicClient(cfg.Dynamic)
	p.SetRESTMapper(cfg.Kinds)
	p.SetUnconditionalAuthorizer(cfg.Authorizer)
	p.SetExcludedAdmissionResources(resource.Reviews())
	if err := p.ValidateInitialization(); err != nil {
		return fmt.Errorf("set up plugin of policies: %w", err)
	}
	own.begin(ctx)
	return nil
}
