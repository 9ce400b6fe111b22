package flowschema

import (
	"context"
	"fmt"
	"slices"
	"strings"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"

	v "github.com/peapod/peapod/api/validation"
)

// verbs are what rules may name.
var verbs = []string{"create", "delete", "deletecollection", "get", "list", "patch", "proxy", "update", "watch"}

// all is the wildcard of verbs, groups, resources, namespaces and paths alike.
const all = "*"

// Validate checks a schema, on create and update alike. The two that every cluster has must stay as they are.
func (kind) Validate(_ context.Context, obj *flowcontrolv1.FlowSchema) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateSpec(obj.Name, &obj.Spec, path)
	for _, fixed := range bootstrap.MandatoryFlowSchemas {
		if fixed.Name == obj.Name && !equality.Semantic.DeepEqual(obj.Spec, fixed.Spec) {
			errs = append(errs, field.Invalid(path, obj.Spec, fmt.Sprintf("spec of '%s' must equal the fixed value", obj.Name)))
		}
	}
	return append(errs, validateStatus(&obj.Status)...)
}

// ValidateStatusUpdate checks the conditions.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *flowcontrolv1.FlowSchema) field.ErrorList {
	return validateStatus(&obj.Status)
}

func validateStatus(s *flowcontrolv1.FlowSchemaStatus) field.ErrorList {
	return v.ConditionTypes(s.Conditions, func(c *flowcontrolv1.FlowSchemaCondition) flowcontrolv1.FlowSchemaConditionType { return c.Type },
		field.NewPath("status", "conditions"))
}

func validateSpec(name string, s *flowcontrolv1.FlowSchemaSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	precedence := path.Child("matchingPrecedence")
	switch n := s.MatchingPrecedence; {
	case n <= 0:
		errs = append(errs, field.Invalid(precedence, n, "must be a positive value"))
	case n > flowcontrolv1.FlowSchemaMaxMatchingPrecedence:
		errs = append(errs, field.Invalid(precedence, n, fmt.Sprintf("must not be greater than %d", flowcontrolv1.FlowSchemaMaxMatchingPrecedence)))
	case n == 1 && name != flowcontrolv1.FlowSchemaNameExempt:
		errs = append(errs, field.Invalid(precedence, n, "only the schema named 'exempt' may have matchingPrecedence 1"))
	}
	if m := s.DistinguisherMethod; m != nil {
		errs = append(errs, v.Supported(m.Type, path.Child("distinguisherMethod", "type"),
			flowcontrolv1.FlowDistinguisherMethodByNamespaceType, flowcontrolv1.FlowDistinguisherMethodByUserType)...)
	}
	level := path.Child("priorityLevelConfiguration", "name")
	if s.PriorityLevelConfiguration.Name == "" {
		errs = append(errs, field.Required(level, "must reference a priority level"))
	} else {
		errs = append(errs, v.ObjectName(s.PriorityLevelConfiguration.Name, level)...)
	}
	for i := range s.Rules {
		errs = append(errs, validateRules(&s.Rules[i], path.Child("rules").Index(i))...)
	}
	return errs
}

func validateRules(r *flowcontrolv1.PolicyRulesWithSubjects, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(r.Subjects) == 0 {
		errs = append(errs, field.Required(path.Child("subjects"), "subjects must contain at least one value"))
	}
	for i := range r.Subjects {
		errs = append(errs, validateSubject(&r.Subjects[i], path.Child("subjects").Index(i))...)
	}
	if len(r.ResourceRules) == 0 && len(r.NonResourceRules) == 0 {
		errs = append(errs, field.Required(path, "at least one of resourceRules and nonResourceRules has to be non-empty"))
	}
	for i := range r.ResourceRules {
		errs = append(errs, validateResourceRule(&r.ResourceRules[i], path.Child("resourceRules").Index(i))...)
	}
	for i := range r.NonResourceRules {
		errs = append(errs, validateURLRule(&r.NonResourceRules[i], path.Child("nonResourceRules").Index(i))...)
	}
	return errs
}

// validateSubject checks that a subject says who it is in the field that its kind has, and in no other.
func validateSubject(s *flowcontrolv1.Subject, path *field.Path) field.ErrorList {
	kinds := []flowcontrolv1.SubjectKind{flowcontrolv1.SubjectKindGroup, flowcontrolv1.SubjectKindServiceAccount, flowcontrolv1.SubjectKindUser}
	if !slices.Contains(kinds, s.Kind) {
		return field.ErrorList{field.NotSupported(path.Child("kind"), s.Kind, kinds)}
	}
	var errs field.ErrorList
	for _, one := range []struct {
		kind  flowcontrolv1.SubjectKind
		field string
		set   bool
		check func(*field.Path) field.ErrorList
	}{
		{flowcontrolv1.SubjectKindServiceAccount, "serviceAccount", s.ServiceAccount != nil,
			func(p *field.Path) field.ErrorList { return validateAccount(s.ServiceAccount, p) }},
		{flowcontrolv1.SubjectKindUser, "user", s.User != nil,
			func(p *field.Path) field.ErrorList { return v.Required(s.User.Name, p.Child("name")) }},
		{flowcontrolv1.SubjectKindGroup, "group", s.Group != nil,
			func(p *field.Path) field.ErrorList { return v.Required(s.Group.Name, p.Child("name")) }},
	} {
		at := path.Child(one.field)
		switch wanted := one.kind == s.Kind; {
		case wanted && one.set:
			errs = append(errs, one.check(at)...)
		case wanted:
			errs = append(errs, field.Required(at, fmt.Sprintf("%s is required when subject kind is '%s'", one.field, one.kind)))
		case one.set:
			errs = append(errs, field.Forbidden(at, fmt.Sprintf("%s is forbidden when subject kind is not '%s'", one.field, one.kind)))
		}
	}
	return errs
}

func validateAccount(s *flowcontrolv1.ServiceAccountSubject, path *field.Path) field.ErrorList {
	errs := v.Required(s.Name, path.Child("name"))
	if s.Name != "" && s.Name != flowcontrolv1.NameAll {
		errs = append(errs, v.Messages(apivalidation.ValidateServiceAccountName(s.Name, false), s.Name, path.Child("name"))...)
	}
	if s.Namespace == "" {
		return append(errs, field.Required(path.Child("namespace"), "must specify namespace for service account"))
	}
	return append(errs, v.Messages(apivalidation.ValidateNamespaceName(s.Namespace, false), s.Namespace, path.Child("namespace"))...)
}

// alone checks that a list that has the wildcard has nothing else; what names its members.
func alone(list []string, what string, path *field.Path) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, all) {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

func validateVerbs(list []string, path *field.Path) field.ErrorList {
	switch {
	case len(list) == 0:
		return field.ErrorList{field.Required(path, "verbs must contain at least one value")}
	case slices.Contains(list, all):
		return alone(list, "verbs", path)
	case slices.ContainsFunc(list, func(verb string) bool { return !slices.Contains(verbs, verb) }):
		return field.ErrorList{field.NotSupported(path, list, verbs)}
	}
	return nil
}

func validateResourceRule(r *flowcontrolv1.ResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	for _, list := range []struct {
		name, required, others string
		values                 []string
	}{
		{"apiGroups", "resource rules must supply at least one api group", "api groups", r.APIGroups},
		{"resources", "resource rules must supply at least one resource", "resources", r.Resources},
	} {
		if len(list.values) == 0 {
			errs = append(errs, field.Required(path.Child(list.name), list.required))
		}
		errs = append(errs, alone(list.values, list.others, path.Child(list.name))...)
	}
	namespaces := path.Child("namespaces")
	if len(r.Namespaces) == 0 && !r.ClusterScope {
		return append(errs, field.Required(namespaces, "resource rules that are not cluster scoped must supply at least one namespace"))
	}
	if slices.Contains(r.Namespaces, all) {
		return append(errs, alone(r.Namespaces, "namespaces", namespaces)...)
	}
	for i, name := range r.Namespaces {
		for _, msg := range apivalidation.ValidateNamespaceName(name, false) {
			errs = append(errs, field.Invalid(namespaces.Index(i), name, "each member of this list must be '*' or a DNS-1123 label; "+msg))
		}
	}
	return errs
}

func validateURLRule(r *flowcontrolv1.NonResourcePolicyRule, path *field.Path) field.ErrorList {
	errs := validateVerbs(r.Verbs, path.Child("verbs"))
	urls := path.Child("nonResourceURLs")
	if len(r.NonResourceURLs) == 0 {
		return append(errs, field.Required(urls, "nonResourceURLs must contain at least one value"))
	}
	if slices.Contains(r.NonResourceURLs, all) {
		return append(errs, alone(r.NonResourceURLs, "non-resource URLs", urls)...)
	}
	for i, url := range r.NonResourceURLs {
		if fault := faultOfURL(url); fault != "" {
			errs = append(errs, field.Invalid(urls.Index(i), url, fault))
		}
	}
	return errs
}

// faultOfURL says what is wrong with the path of a URL, which may end in "/*".
func faultOfURL(path string) string {
	wildcards := strings.Count(path, all)
	switch {
	case path == "":
		return "must not be empty"
	case !strings.HasPrefix(path, "/"):
		return "must start with slash"
	case strings.Contains(path, " "):
		return "must not contain white-space"
	case strings.Contains(path, "//"):
		return "must not contain double slash"
	case wildcards > 1, wildcards == 1 && !strings.HasSuffix(path, "/*"):
		return "wildcard can only do suffix matching"
	}
	return ""
}
