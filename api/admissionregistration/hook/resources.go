package hook

import (
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/validation/path"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	v "github.com/peapod/peapod/api/validation"
)

// DefaultMatch fills in what a policy or a binding does not say of the requests that it is about; nil stays nil.
func DefaultMatch(m *admissionv1.MatchResources) {
	if m == nil {
		return
	}
	if m.MatchPolicy == nil {
		m.MatchPolicy = ptr.To(admissionv1.Equivalent)
	}
	if m.NamespaceSelector == nil {
		m.NamespaceSelector = &metav1.LabelSelector{}
	}
	if m.ObjectSelector == nil {
		m.ObjectSelector = &metav1.LabelSelector{}
	}
	for _, rules := range [][]admissionv1.NamedRuleWithOperations{m.ResourceRules, m.ExcludeResourceRules} {
		for i := range rules {
			DefaultRule(&rules[i].Rule)
		}
	}
}

// Constraints checks what a policy is about, which must be said.
func Constraints(m *admissionv1.MatchResources, p *field.Path) field.ErrorList {
	if m == nil {
		return field.ErrorList{field.Required(p, "")}
	}
	errs := Match(m, p)
	if len(m.ResourceRules) == 0 {
		errs = append(errs, field.Required(p.Child("resourceRules"), ""))
	}
	return errs
}

// Match checks what a policy or a binding is about; nil passes.
func Match(m *admissionv1.MatchResources, p *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	if m.MatchPolicy == nil {
		errs = append(errs, field.Required(p.Child("matchPolicy"), ""))
	}
	errs = append(errs, v.OptionalEnum(m.MatchPolicy, p.Child("matchPolicy"), admissionv1.Equivalent, admissionv1.Exact)...)
	for _, s := range []struct {
		selector *metav1.LabelSelector
		path     *field.Path
	}{{m.NamespaceSelector, p.Child("namespaceSelector")}, {m.ObjectSelector, p.Child("objectSelector")}} {
		if s.selector == nil {
			errs = append(errs, field.Required(s.path, ""))
		}
		errs = append(errs, v.LabelSelector(s.selector, false, s.path)...)
	}
	for i := range m.ResourceRules {
		errs = append(errs, namedRule(&m.ResourceRules[i], p.Child("resourceRules").Index(i))...)
	}
	for i := range m.ExcludeResourceRules {
		errs = append(errs, namedRule(&m.ExcludeResourceRules[i], p.Child("excludeResourceRules").Index(i))...)
	}
	return errs
}

func namedRule(r *admissionv1.NamedRuleWithOperations, p *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, name := range r.ResourceNames {
		at := p.Child("resourceNames").Index(i)
		errs = append(errs, v.Messages(path.ValidatePathSegmentName(name, false), name, at)...)
		if seen.Has(name) {
			errs = append(errs, field.Duplicate(at, name))
		}
		seen.Insert(name)
	}
	return append(errs, Rule(&r.RuleWithOperations, p)...)
}

// Mutable checks that a mutating policy or its binding is about requests that bring an object to change; nil passes. p is that of m.
func Mutable(m *admissionv1.MatchResources, p *field.Path) field.ErrorList {
	if m == nil {
		return nil
	}
	var errs field.ErrorList
	for _, rule := range m.ResourceRules {
		for _, o := range rule.Operations {
			errs = append(errs, v.Supported(o, p.Child("resourceRules", "operations"),
				admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Update)...)
		}
	}
	return errs
}
