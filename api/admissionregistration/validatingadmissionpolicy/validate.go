package validatingadmissionpolicy

import (
	"context"
	"fmt"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/validating"

	"github.com/peapod/peapod/api/admissionregistration/hook"
	v "github.com/peapod/peapod/api/validation"
)

const (
	maxAnnotations = 20
	// maxValueExpression bounds, in bytes, the expression of an annotation's value, which itself may have twice that.
	maxValueExpression = 5 * 1024
)

// Validate checks a new policy. Whether its user may read parameters is for admission to say.
func (kind) Validate(_ context.Context, obj *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	return append(hook.Name(obj), validate(obj, nil)...)
}

// ValidateUpdate checks a changed policy. Expressions that it had may use what an older server knew.
func (kind) ValidateUpdate(_ context.Context, obj, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	return validate(obj, old)
}

func validate(obj, old *admissionv1.ValidatingAdmissionPolicy) field.ErrorList {
	s, path := &obj.Spec, hook.Spec
	errs := hook.FailurePolicy(s.FailurePolicy, path.Child("failurePolicy"))
	errs = append(errs, hook.ParamKind(s.ParamKind, path.Child("paramKind"))...)
	errs = append(errs, hook.Constraints(s.MatchConstraints, path.Child("matchConstraints"))...)
	e := hook.NewExpressions(s.ParamKind != nil, stored(old)...)
	if old == nil || !equality.Semantic.DeepEqual(s.ParamKind, old.Spec.ParamKind) ||
		!equality.Semantic.DeepEqual(s.MatchConditions, old.Spec.MatchConditions) {
		errs = append(errs, e.Conditions(s.MatchConditions, path.Child("matchConditions"))...)
	}
	errs = append(errs, e.Variables(s.Variables, path.Child("variables"))...)
	if len(s.Validations) == 0 && len(s.AuditAnnotations) == 0 {
		const none = "validations or auditAnnotations must contain at least one item"
		return append(errs, field.Required(path.Child("validations"), none), field.Required(path.Child("auditAnnotations"), none))
	}
	for i := range s.Validations {
		errs = append(errs, validation(e, &s.Validations[i], path.Child("validations").Index(i))...)
	}
	return append(errs, annotations(e, obj.Name, s.AuditAnnotations, path.Child("auditAnnotations"))...)
}

// stored lists the expressions of a policy; nil has none.
func stored(p *admissionv1.ValidatingAdmissionPolicy) []string {
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
	for _, one := range p.Spec.Validations {
		out = append(out, one.Expression, one.MessageExpression)
	}
	for _, a := range p.Spec.AuditAnnotations {
		out = append(out, strings.TrimSpace(a.ValueExpression))
	}
	return out
}

func validation(e *hook.Expressions, one *admissionv1.Validation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(one.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		errs = append(errs, e.Check(&validating.ValidationCondition{Expression: one.Expression},
			plugincel.OptionalVariableDeclarations{HasParams: e.Params, HasAuthorizer: true}, path.Child("expression"))...)
	}
	switch {
	case one.MessageExpression == "":
	case strings.TrimSpace(one.MessageExpression) == "":
		errs = append(errs, field.Invalid(path.Child("messageExpression"), one.MessageExpression, "must be non-empty if specified"))
	default:
		errs = append(errs, e.Check(&validating.MessageExpressionCondition{MessageExpression: one.MessageExpression},
			plugincel.OptionalVariableDeclarations{HasParams: e.Params}, path.Child("messageExpression"))...)
	}
	switch trimmed := strings.TrimSpace(one.Message); {
	case one.Message != "" && trimmed == "":
		errs = append(errs, field.Invalid(path.Child("message"), one.Message, "message must be non-empty if specified"))
	case strings.ContainsAny(trimmed, "\n\r"):
		errs = append(errs, field.Invalid(path.Child("message"), one.Message, "message must not contain line breaks"))
	}
	return append(errs, v.OptionalEnum(one.Reason, path.Child("reason"),
		metav1.StatusReasonForbidden, metav1.StatusReasonInvalid, metav1.StatusReasonRequestEntityTooLarge)...)
}

// annotations checks what a policy adds to audit events, under keys that begin with the policy's name.
func annotations(e *hook.Expressions, policy string, list []admissionv1.AuditAnnotation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) > maxAnnotations {
		errs = append(errs, field.Invalid(path, list, fmt.Sprintf("must not have more than %d auditAnnotations", maxAnnotations)))
	}
	keys := sets.New[string]()
	for i, a := range list {
		at := path.Index(i)
		if policy == "" {
			errs = append(errs, field.Invalid(at.Child("key"), a.Key, "requires metadata.name be non-empty"))
		} else {
			errs = append(errs, v.QualifiedName(policy+"/"+a.Key, at.Child("key"))...)
		}
		errs = append(errs, valueExpression(e, a.ValueExpression, at.Child("valueExpression"))...)
		if keys.Has(a.Key) {
			errs = append(errs, field.Duplicate(at.Child("key"), a.Key))
		}
		keys.Insert(a.Key)
	}
	return errs
}

func valueExpression(e *hook.Expressions, expression string, path *field.Path) field.ErrorList {
	switch trimmed := strings.TrimSpace(expression); {
	case trimmed == "":
		return field.ErrorList{field.Required(path, "valueExpression is not specified")}
	case len(trimmed) > maxValueExpression:
		return field.ErrorList{field.Required(path, fmt.Sprintf("must not exceed %d bytes in length", maxValueExpression))}
	default:
		return e.Check(&validating.AuditAnnotationCondition{ValueExpression: trimmed},
			plugincel.OptionalVariableDeclarations{HasParams: e.Params, HasAuthorizer: true}, path)
	}
}
