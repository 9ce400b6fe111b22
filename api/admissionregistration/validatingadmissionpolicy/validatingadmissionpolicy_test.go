package validatingadmissionpolicy

import (
	"testing"

	admissionv1 "k8s.io/api/admissionregistration/v1"

	"github.com/peapod/peapod/api/resource/scenario"
)

func TestScenarios(t *testing.T) { scenario.Run(t, Declaration(), "testdata") }

// Conditions are compiled anew only where they, or what they may speak of, have changed.
func TestStoredConditions(t *testing.T) {
	fail := admissionv1.Fail
	policy := func(condition string) *admissionv1.ValidatingAdmissionPolicy {
		p := &admissionv1.ValidatingAdmissionPolicy{Spec: admissionv1.ValidatingAdmissionPolicySpec{
			FailurePolicy: &fail,
			MatchConstraints: &admissionv1.MatchResources{ResourceRules: []admissionv1.NamedRuleWithOperations{{
				RuleWithOperations: admissionv1.RuleWithOperations{Operations: []admissionv1.OperationType{admissionv1.Create},
					Rule: admissionv1.Rule{APIGroups: []string{""}, APIVersions: []string{"v1"}, Resources: []string{"pods"}}}}}},
			MatchConditions: []admissionv1.MatchCondition{{Name: "c", Expression: condition}},
			Validations:     []admissionv1.Validation{{Expression: "true"}},
		}}
		kind{}.Default(p)
		return p
	}
	if errs := (kind{}).ValidateUpdate(t.Context(), policy("objekt"), policy("objekt")); len(errs) > 0 {
		t.Errorf("a condition that was there is refused: %v", errs)
	}
	if errs := (kind{}).ValidateUpdate(t.Context(), policy("objekt"), policy("true")); len(errs) != 1 {
		t.Errorf("a new condition that does not compile: got %v, want one error", errs)
	}
	params := policy("objekt")
	params.Spec.ParamKind = &admissionv1.ParamKind{APIVersion: "v1", Kind: "ConfigMap"}
	if errs := (kind{}).ValidateUpdate(t.Context(), params, policy("objekt")); len(errs) != 1 {
		t.Errorf("an old condition with new parameters: got %v, want one error", errs)
	}
}
