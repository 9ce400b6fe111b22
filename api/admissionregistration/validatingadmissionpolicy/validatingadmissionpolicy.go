// Package validatingadmissionpolicy declares admissionregistration.k8s.io/v1 ValidatingAdmissionPolicy.
package validatingadmissionpolicy

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/admissionregistration/hook"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[admissionv1.ValidatingAdmissionPolicy](resource.Declaration{
		GVK:             admissionv1.SchemeGroupVersion.WithKind("ValidatingAdmissionPolicy"),
		Plural:          "validatingadmissionpolicies",
		Status:          true,
		StatusAlone:     true,
		Generation:      true,
		Categories:      []string{"api-extensions"},
		VersionedUpdate: true, // who replaces it must have seen it
	}, func() runtime.Object { return &admissionv1.ValidatingAdmissionPolicyList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*admissionv1.ValidatingAdmissionPolicy]       = kind{}
	_ resource.StatusValidator[*admissionv1.ValidatingAdmissionPolicy] = kind{}
	_ resource.Validator[*admissionv1.ValidatingAdmissionPolicy]       = kind{}
	_ resource.UpdateValidator[*admissionv1.ValidatingAdmissionPolicy] = kind{}
	_ resource.Printer[*admissionv1.ValidatingAdmissionPolicy]         = kind{}
)

// Default fills in which requests the policy is about, and that what fails is refused.
func (kind) Default(obj *admissionv1.ValidatingAdmissionPolicy) {
	hook.DefaultFailurePolicy(&obj.Spec.FailurePolicy)
	hook.DefaultMatch(obj.Spec.MatchConstraints)
}

// Columns are those of `kubectl get validatingadmissionpolicies`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Validations", "Validations indicates the number of validation rules defined in this configuration"),
		table.Text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *admissionv1.ValidatingAdmissionPolicy) ([]any, error) {
	return []any{obj.Name, int64(len(obj.Spec.Validations)), hook.ParamKindCell(obj.Spec.ParamKind), table.Since(obj.CreationTimestamp)}, nil
}
