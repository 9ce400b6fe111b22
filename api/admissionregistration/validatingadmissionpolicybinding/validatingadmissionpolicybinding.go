// Package validatingadmissionpolicybinding declares admissionregistration.k8s.io/v1 ValidatingAdmissionPolicyBinding.
package validatingadmissionpolicybinding

import (
	"context"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/admissionregistration/hook"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[admissionv1.ValidatingAdmissionPolicyBinding](resource.Declaration{
		GVK:             admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicyBinding"),
		Plural:          "validatingadmissionpolicybindings",
		Generation:      true,
		Categories:      []string{"api-extensions"},
		VersionedUpdate: true, // who replaces it must have seen it
	}, func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyBindingList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*admissionv1.ValidatingAdmissionPolicyBinding]       = kind{}
	_ resource.Validator[*admissionv1.ValidatingAdmissionPolicyBinding]       = kind{}
	_ resource.UpdateValidator[*admissionv1.ValidatingAdmissionPolicyBinding] = kind{}
	_ resource.Printer[*admissionv1.ValidatingAdmissionPolicyBinding]         = kind{}
)

// Default fills in which requests the policy is put to work on.
func (kind) Default(obj *admissionv1.ValidatingAdmissionPolicyBinding) {
	hook.DefaultMatch(obj.Spec.MatchResources)
}

// Validate checks a new binding. Whether its user may read the parameters is for admission to say.
func (k kind) Validate(ctx context.Context, obj *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	return append(hook.Name(obj), k.ValidateUpdate(ctx, obj, nil)...)
}

// ValidateUpdate checks a changed binding.
func (kind) ValidateUpdate(_ context.Context, obj, _ *admissionv1.ValidatingAdmissionPolicyBinding) field.ErrorList {
	s := &obj.Spec
	errs := hook.Policy(s.PolicyName)
	errs = append(errs, hook.ParamRef(s.ParamRef, hook.Spec.Child("paramRef"))...)
	errs = append(errs, hook.Match(s.MatchResources, hook.Spec.Child("matchResources"))...)
	return append(errs, actions(s.ValidationActions, hook.Spec.Child("validationActions"))...)
}

// actions checks what follows from a validation that fails.
func actions(list []admissionv1.ValidationAction, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[admissionv1.ValidationAction]()
	for i, a := range list {
		errs = append(errs, v.Supported(a, path.Index(i), admissionv1.Audit, admissionv1.Deny, admissionv1.Warn)...)
		if seen.Has(a) {
			errs = append(errs, field.Duplicate(path.Index(i), a))
		}
		seen.Insert(a)
	}
	if seen.HasAll(admissionv1.Deny, admissionv1.Warn) {
		errs = append(errs, field.Invalid(path, list, "must not contain both Deny and Warn (repeating the same validation failure "+
			"information in the API response and headers serves no purpose)"))
	}
	if len(list) == 0 {
		errs = append(errs, field.Required(path, "at least one validation action is required"))
	}
	return errs
}

// Columns are those of `kubectl get validatingadmissionpolicybindings`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("PolicyName", "PolicyName indicates the policy definition which the policy binding binded to"),
		table.Text("ParamRef", "ParamRef indicates the param resource which sets the configration param"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *admissionv1.ValidatingAdmissionPolicyBinding) ([]any, error) {
	return []any{obj.Name, obj.Spec.PolicyName, hook.ParamRefCell(obj.Spec.ParamRef), table.Since(obj.CreationTimestamp)}, nil
}
