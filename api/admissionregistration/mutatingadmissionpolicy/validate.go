package mutatingadmissionpolicy

import (
	"context"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"

	"github.com/peapod/peapod/api/admissionregistration/hook"
	v "github.com/peapod/peapod/api/validation"
)

// Validate checks a new policy. Whether its user may read parameters is for admission to say.
func (kind) Validate(_ context.Context, obj *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	return append(hook.Name(obj), validate(obj, nil)...)
}

// ValidateUpdate checks a changed policy. Expressions that it had may use what an older server knew.
func (kind) ValidateUpdate(_ context.Context, obj, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	return validate(obj, old)
}

func validate(obj, old *admissionv1.MutatingAdmissionPolicy) field.ErrorList {
	s, path := &obj.Spec, hook.Spec
	errs := hook.FailurePolicy(s.FailurePolicy, path.Child("failurePolicy"))
	errs = append(errs, hook.ParamKind(s.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, hook.Constraints(s.MatchConstraints, path.Child("matchConstraints"))...)
	errs = append(errs, hook.Mutable(s.MatchConstraints, path.Child("matchConstraints"))...)
	e := hook.NewExpressions(s.ParamKind != nil, stored(old)...)
	if old == nil || !equality.Semantic.DeepEqual(s.ParamKind, old.Spec.ParamKind) ||
		!equality.Semantic.DeepEqual(s.MatchConditions, old.Spec.MatchConditions) {
		errs = append(errs, e.Conditions(s.MatchConditions, path.Child("matchConditions"))...)
	}
	errs = append(errs, e.Variables(s.Variables, path.Child("variables"))...)
	if len(s.Mutations) == 0 {
		errs = append(errs, field.Required(path.Child("mutations"), "mutations must contain at least one item"))
	}
	for i := range s.Mutations {
		errs = append(errs, mutation(e, &s.Mutations[i], path.Child("mutations").Index(i))...)
	}
	return append(errs, hook.ReinvocationPolicy(s.ReinvocationPolicy, path.Child("reinvocationPolicy"))...)
}

// stored lists the expressions of a policy; nil has none.
func stored(p *admissionv1.MutatingAdmissionPolicy) []string {
	if p == nil {
		return nil
	}
	var out []string
	for _, c := range p.Spec.MatchConditions {
		out = append(out, strings.TrimSpace(c.Expression))
	}
	for _, variable := range p.Spec.Variables {
		out = append(out, variable.Expression)
	}
	for _, m := range p.Spec.Mutations {
		if m.ApplyConfiguration != nil {
			out = append(out, m.ApplyConfiguration.Expression)
		}
		if m.JSONPatch != nil {
			out = append(out, m.JSONPatch.Expression)
		}
	}
	return out
}

// mutation checks that there is what the type of patch says, and nothing else.
func mutation(e *hook.Expressions, m *admissionv1.Mutation, path *field.Path) field.ErrorList {
	apply, patches := path.Child("applyConfiguration"), path.Child("jsonPatch")
	var errs field.ErrorList
	switch m.PatchType {
	case admissionv1.PatchTypeApplyConfiguration:
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(patches, "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
		if m.ApplyConfiguration == nil {
			return append(errs, field.Required(apply, "must be specified when patchType is ApplyConfiguration"))
		}
		x := m.ApplyConfiguration.Expression
		return append(errs, expression(e, &patch.ApplyConfigurationCondition{Expression: x}, apply.Child("expression"))...)
	case admissionv1.PatchTypeJSONPatch:
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(apply, "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
		if m.JSONPatch == nil {
			return append(errs, field.Required(patches, "must be specified when patchType is JSONPatch"))
		}
		x := m.JSONPatch.Expression
		return append(errs, expression(e, &patch.JSONPatchCondition{Expression: x}, patches.Child("expression"))...)
	}
	return v.Enum(m.PatchType, path.Child("patchType"), admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch)
}

func expression(e *hook.Expressions, x plugincel.ExpressionAccessor, path *field.Path) field.ErrorList {
	if strings.TrimSpace(x.GetExpression()) == "" {
		return field.ErrorList{field.Required(path, "expression is not specified")}
	}
	return e.Check(x, plugincel.OptionalVariableDeclarations{HasParams: e.Params, HasAuthorizer: true, HasPatchTypes: true}, path)
}
