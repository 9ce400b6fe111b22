package admission

import (
	"context"
	"errors"

	"k8s.io/apiserver/pkg/admission"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/internal/synced"
)

// gate has requests wait until the informers that a plugin decides by have their first list.
type gate struct {
	admission.Interface
	needs []cache.DoneChecker
}

var (
	_ admission.MutationInterface   = gate{}
	_ admission.ValidationInterface = gate{}
)

// Admit is the plugin's, where it has one.
func (g gate) Admit(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	plugin, ok := g.Interface.(admission.MutationInterface)
	if !ok {
		return nil
	}
	if err := g.wait(ctx, a); err != nil {
		return err
	}
	return plugin.Admit(ctx, a, o)
}

// Validate is the plugin's, where it has one.
func (g gate) Validate(ctx context.Context, a admission.Attributes, o admission.ObjectInterfaces) error {
	plugin, ok := g.Interface.(admission.ValidationInterface)
	if !ok {
		return nil
	}
	if err := g.wait(ctx, a); err != nil {
		return err
	}
	return plugin.Validate(ctx, a, o)
}

func (g gate) wait(ctx context.Context, a admission.Attributes) error {
	if synced.Wait(ctx, synced.Limit, g.needs...) {
		return nil
	}
	return admission.NewForbidden(a, errors.New("not yet ready to handle request"))
}
