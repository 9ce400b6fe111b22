// Package mutatingadmissionpolicybinding declares admissionregistration.k8s.io/v1 MutatingAdmissionPolicyBinding.
package mutatingadmissionpolicybinding

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/admissionregistration/hook"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[admissionv1.MutatingAdmissionPolicyBinding](resource.Declaration{
		GVK:             admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicyBinding"),
		Plural:          "mutatingadmissionpolicybindings",
		Generation:      true,
		Categories:      []string{"api-extensions"},
		VersionedUpdate: true, // who replaces it must have seen it
	}, func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyBindingList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*admissionv1.MutatingAdmissionPolicyBinding]       = kind{}
	_ resource.Validator[*admissionv1.MutatingAdmissionPolicyBinding]       = kind{}
	_ resource.UpdateValidator[*admissionv1.MutatingAdmissionPolicyBinding] = kind{}
	_ resource.Printer[*admissionv1.MutatingAdmissionPolicyBinding]         = kind{}
)

// Default fills in which requests the policy is put to work on.
func (kind) Default(obj *admissionv1.MutatingAdmissionPolicyBinding) {
	hook.DefaultMatch(obj.Spec.MatchResources)
}

// Validate checks a new binding. Whether its user may read the parameters is for admission to say.
func (k kind) Validate(ctx context.Context, obj *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	return append(hook.Name(obj), k.ValidateUpdate(ctx, obj, nil)...)
}

// ValidateUpdate checks a changed binding.
func (kind) ValidateUpdate(_ context.Context, obj, _ *admissionv1.MutatingAdmissionPolicyBinding) field.ErrorList {
	s := &obj.Spec
	errs := hook.Policy(s.PolicyName)
	errs = append(errs, hook.ParamRef(s.ParamRef, hook.Spec.Child("paramRef"))...)
	errs = append(errs, hook.Match(s.MatchResources, hook.Spec.Child("matchResources"))...)
	errs = append(errs, hook.Mutable(s.MatchResources, hook.Spec.Child("matchResources"))...)
	return errs
}

// Columns are those of `kubectl get mutatingadmissionpolicybindings`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
		table.Text("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *admissionv1.MutatingAdmissionPolicyBinding) ([]any, error) {
	return []any{obj.Name, obj.Spec.PolicyName, hook.ParamRefCell(obj.Spec.ParamRef), table.Since(obj.CreationTimestamp)}, nil
}
