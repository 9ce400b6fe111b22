package hooks

import (
	"bytes"
	"context"
	"fmt"
	"io"

	"k8s.io/apiserver/pkg/admission/plugin/webhook/generic"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/validating"
	utilfeature "k8s.io/apiserver/pkg/util/feature"

	"github.com/peapod/peapod/api/resource"
)

func (cfg Config) mutatingWebhooks(ctx context.Context) (waiter, error) {
	p, err := mutating.NewMutatingWebhook(reader(cfg.MutatingWebhooks))
	if err != nil {
		return nil, fmt.Errorf("make plugin of mutating webhooks: %w", err)
	}
	return p, cfg.setUp(ctx, p.Webhook)
}

func (cfg Config) validatingWebhooks(ctx context.Context) (waiter, error) {
	p, err := validating.NewValidatingAdmissionWebhook(reader(cfg.ValidatingWebhooks))
	if err != nil {
		return nil, fmt.Errorf("make plugin of validating webhooks: %w", err)
	}
	return p, cfg.setUp(ctx, p.Webhook)
}

// reader is nil where there is nothing to read.
func reader(b []byte) io.Reader {
	if b == nil {
		return nil
	}
	return bytes.NewReader(b)
}

// setUp gives a plugin what it needs until ctx ends.
func (cfg Config) setUp(ctx context.Context, w *generic.Webhook) error {
	own := cfg.ownInformers()
	w.SetDrainedNotification(ctx.Done())
	w.SetExternalKubeClientSet(cfg.Client)
	w.SetExternalKubeInformerFactory(own)
	w.SetServiceResolver(cfg.Services)
	w.SetUnconditionalAuthorizer(cfg.Authorizer)
	w.SetExcludedAdmissionResources(resource.Reviews())
	w.InspectFeatureGates(utilfeature.DefaultFeatureGate)
	if err := w.ValidateInitialization(); err != nil {
		return fmt.Errorf("set up plugin of webhooks: %w", err)
	}
	own.begin(ctx)
	return nil
}
