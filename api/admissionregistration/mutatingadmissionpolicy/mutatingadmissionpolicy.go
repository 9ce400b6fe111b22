// Package mutatingadmissionpolicy declares admissionregistration.k8s.io/v1 MutatingAdmissionPolicy.
package mutatingadmissionpolicy

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
	return resource.Declare[admissionv1.MutatingAdmissionPolicy](resource.Declaration{
		GVK:             admissionv1.SchemeGroupVersion.WithKind("MutatingAdmissionPolicy"),
		Plural:          "mutatingadmissionpolicies",
		Generation:      true,
		Categories:      []string{"api-extensions"},
		VersionedUpdate: true, // who replaces it must have seen it
	}, func() runtime.Object { return &admissionv1.MutatingAdmissionPolicyList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*admissionv1.MutatingAdmissionPolicy]       = kind{}
	_ resource.Validator[*admissionv1.MutatingAdmissionPolicy]       = kind{}
	_ resource.UpdateValidator[*admissionv1.MutatingAdmissionPolicy] = kind{}
	_ resource.Printer[*admissionv1.MutatingAdmissionPolicy]         = kind{}
)

// Default fills in which requests the policy is about, and that what fails is refused.
func (kind) Default(obj *admissionv1.MutatingAdmissionPolicy) {
	hook.DefaultFailurePolicy(&obj.Spec.FailurePolicy)
	hook.DefaultMatch(obj.Spec.MatchConstraints)
}

// Columns are those of `kubectl get mutatingadmissionpolicies`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Mutations", "Mutation indicates the number of mutations rules defined in this configuration"),
		table.Text("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *admissionv1.MutatingAdmissionPolicy) ([]any, error) {
	return []any{obj.Name, int64(len(obj.Spec.Mutations)), hook.ParamKindCell(obj.Spec.ParamKind), table.Since(obj.CreationTimestamp)}, nil
}
