package hooks

import (
	"fmt"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"
	"k8s.io/apiserver/pkg/admission/plugin/webhook/matchconditions"
	"k8s.io/apiserver/pkg/cel/environment"
)

// compile makes of a mutating policy what its requests are put through: conditions, then one patcher for each mutation. What does
// not compile fails when it is evaluated, and the policy says what follows from that.
func compile(policy *admissionv1.MutatingAdmissionPolicy) mutating.PolicyEvaluator {
	const mode = environment.StoredExpressions
	s := &policy.Spec
	compiler, err := plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
	if err != nil {
		return mutating.PolicyEvaluator{Error: fmt.Errorf("make compiler of policy %s: %w", policy.Name, err)}
	}
	options := plugincel.OptionalVariableDeclarations{HasParams: s.ParamKind != nil, HasAuthorizer: true}
	for _, v := range s.Variables {
		compiler.CompileAndStoreVariable(&validating.Variable{Name: v.Name, Expression: v.Expression}, options, mode)
	}
	evaluator := mutating.PolicyEvaluator{CompositedCompiler: compiler}
	if len(s.MatchConditions) > 0 {
		var conditions []plugincel.ExpressionAccessor
		for i := range s.MatchConditions {
			conditions = append(conditions, (*matchconditions.MatchCondition)(&s.MatchConditions[i]))
		}
		evaluator.Matcher = matchconditions.NewMatcher(compiler.CompileCondition(conditions, options, mode), s.FailurePolicy,
			"policy", "validate", policy.Name)
	}
	options.HasPatchTypes = true
	for _, m := range s.Mutations {
		switch {
		case m.PatchType == admissionv1.PatchTypeJSONPatch && m.JSONPatch != nil:
			x := &patch.JSONPatchCondition{Expression: m.JSONPatch.Expression}
			evaluator.Mutators = append(evaluator.Mutators, patch.NewJSONPatcher(compiler.CompileMutatingEvaluator(x, options, mode)))
		case m.PatchType == admissionv1.PatchTypeApplyConfiguration && m.ApplyConfiguration != nil:
			x := &patch.ApplyConfigurationCondition{Expression: m.ApplyConfiguration.Expression}
			evaluator.Mutators = append(evaluator.Mutators, patch.NewApplyConfigurationPatcher(compiler.CompileMutatingEvaluator(x, options, mode)))
		}
	}
	return evaluator
}
