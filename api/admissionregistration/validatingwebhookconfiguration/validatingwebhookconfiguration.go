// Package validatingwebhookconfiguration declares admissionregistration.k8s.io/v1 ValidatingWebhookConfiguration.
package validatingwebhookconfiguration

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
	return resource.Declare[admissionv1.ValidatingWebhookConfiguration](resource.Declaration{
		GVK:    admissionv1.SchemeGroupVersion.WithKind("ValidatingWebhookConfiguration"),
		Plural: "validatingwebhookconfigurations",
		// There is no spec: see PrepareForUpdate.
		Generation:      true,
		Categories:      []string{"api-extensions"},
		VersionedUpdate: true, // who replaces it must have seen it
	}, func() runtime.Object { return &admissionv1.ValidatingWebhookConfigurationList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*admissionv1.ValidatingWebhookConfiguration]       = kind{}
	_ resource.UpdatePreparer[*admissionv1.ValidatingWebhookConfiguration]  = kind{}
	_ resource.Validator[*admissionv1.ValidatingWebhookConfiguration]       = kind{}
	_ resource.UpdateValidator[*admissionv1.ValidatingWebhookConfiguration] = kind{}
	_ resource.Warner[*admissionv1.ValidatingWebhookConfiguration]          = kind{}
	_ resource.Printer[*admissionv1.ValidatingWebhookConfiguration]         = kind{}
)

// Default fills in what webhooks do not say.
func (kind) Default(obj *admissionv1.ValidatingWebhookConfiguration) {
	for i := range obj.Webhooks {
		w := common(obj.Webhooks[i : i+1])[0]
		hook.DefaultWebhook(&w)
		obj.Webhooks[i] = admissionv1.ValidatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		}
	}
}

// PrepareForUpdate counts the changes of the webhooks.
func (kind) PrepareForUpdate(_ context.Context, obj, old *admissionv1.ValidatingWebhookConfiguration) {
	if !equality.Semantic.DeepEqual(obj.Webhooks, old.Webhooks) {
		obj.Generation = old.Generation + 1
	}
}

// Validate checks a new configuration.
func (kind) Validate(_ context.Context, obj *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	return append(hook.Name(obj), hook.CheckWebhooks(common(obj.Webhooks), nil)...)
}

// ValidateUpdate checks a changed configuration.
func (kind) ValidateUpdate(_ context.Context, obj, old *admissionv1.ValidatingWebhookConfiguration) field.ErrorList {
	return hook.CheckWebhooks(common(obj.Webhooks), common(old.Webhooks))
}

// Warnings tells of rules without effect.
func (kind) Warnings(_ context.Context, obj, _ *admissionv1.ValidatingWebhookConfiguration) []string {
	return hook.WebhookWarnings(common(obj.Webhooks))
}

// Columns are those of `kubectl get validatingwebhookconfigurations`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Webhooks", "Webhooks indicates the number of webhooks registered in this configuration"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *admissionv1.ValidatingWebhookConfiguration) ([]any, error) {
	return []any{obj.Name, int64(len(obj.Webhooks)), table.Since(obj.CreationTimestamp)}, nil
}

// common returns the webhooks as what both kinds have in common, a mutating one.
func common(list []admissionv1.ValidatingWebhook) []admissionv1.MutatingWebhook {
	out := make([]admissionv1.MutatingWebhook, len(list))
	for i, w := range list {
		out[i] = admissionv1.MutatingWebhook{
			Name: w.Name, ClientConfig: w.ClientConfig, Rules: w.Rules, FailurePolicy: w.FailurePolicy, MatchPolicy: w.MatchPolicy,
			NamespaceSelector: w.NamespaceSelector, ObjectSelector: w.ObjectSelector, SideEffects: w.SideEffects,
			TimeoutSeconds: w.TimeoutSeconds, AdmissionReviewVersions: w.AdmissionReviewVersions, MatchConditions: w.MatchConditions,
		}
	}
	return out
}
