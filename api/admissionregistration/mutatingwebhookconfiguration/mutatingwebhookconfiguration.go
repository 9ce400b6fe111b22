// Package mutatingwebhookconfiguration declares admissionregistration.k8s.io/v1 MutatingWebhookConfiguration.
package mutatingwebhookconfiguration

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/admissionregistration/hook"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[admissionv1.MutatingWebhookConfiguration](resource.Declaration{
		GVK:    admissionv1.SchemeGroupVersion.WithKind("MutatingWebhookConfiguration"),
		Plural: "mutatingwebhookconfigurations",
		// There is no spec: see PrepareForUpdate.
		Generation:      true,
		Categories:      []string{"api-extensions"},
		VersionedUpdate: true, // who replaces it must have seen it
	}, func() runtime.Object { return &admissionv1.MutatingWebhookConfigurationList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*admissionv1.MutatingWebhookConfiguration]       = kind{}
	_ resource.UpdatePreparer[*admissionv1.MutatingWebhookConfiguration]  = kind{}
	_ resource.Validator[*admissionv1.MutatingWebhookConfiguration]       = kind{}
	_ resource.UpdateValidator[*admissionv1.MutatingWebhookConfiguration] = kind{}
	_ resource.Warner[*admissionv1.MutatingWebhookConfiguration]          = kind{}
	_ resource.Printer[*admissionv1.MutatingWebhookConfiguration]         = kind{}
)

// Default fills in what webhooks do not say.
func (kind) Default(obj *admissionv1.MutatingWebhookConfiguration) {
	for i := range obj.Webhooks {
		hook.DefaultWebhook(&obj.Webhooks[i])
	}
}

// PrepareForUpdate counts the changes of the webhooks.
func (kind) PrepareForUpdate(_ context.Context, obj, old *admissionv1.MutatingWebhookConfiguration) {
	if !equality.Semantic.DeepEqual(obj.Webhooks, old.Webhooks) {
		obj.Generation = old.Generation + 1
	}
}

// Validate checks a new configuration.
func (kind) Validate(_ context.Context, obj *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	return append(hook.Name(obj), hook.CheckWebhooks(obj.Webhooks, nil)...)
}

// ValidateUpdate checks a changed configuration.
func (kind) ValidateUpdate(_ context.Context, obj, old *admissionv1.MutatingWebhookConfiguration) field.ErrorList {
	return hook.CheckWebhooks(obj.Webhooks, old.Webhooks)
}

// Warnings tells of rules without effect.
func (kind) Warnings(_ context.Context, obj, _ *admissionv1.MutatingWebhookConfiguration) []string {
	return hook.WebhookWarnings(obj.Webhooks)
}

// Columns are those of `kubectl get mutatingwebhookconfigurations`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *admissionv1.MutatingWebhookConfiguration) ([]any, error) {
	return []any{obj.Name, int64(len(obj.Webhooks)), table.Since(obj.CreationTimestamp)}, nil
}
