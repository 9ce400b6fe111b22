package hook

import (
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	v "github.com/peapod/peapod/api/validation"
)

const wildcard = "*"

// DefaultRule has a rule be about objects with and without a namespace.
func DefaultRule(r *admissionv1.Rule) {
	if r.Scope == nil {
		r.Scope = ptr.To(admissionv1.AllScopes)
	}
}

// Rule checks which requests a hook is asked about.
func Rule(r *admissionv1.RuleWithOperations, path *field.Path) field.ErrorList {
	errs := operations(r.Operations, path.Child("operations"))
	groups, versions := path.Child("apiGroups"), path.Child("apiVersions")
	if len(r.APIGroups) == 0 {
		errs = append(errs, field.Required(groups, ""))
	}
	errs = append(errs, alone(r.APIGroups, groups, "API groups")...)
	if len(r.APIVersions) == 0 {
		errs = append(errs, field.Required(versions, ""))
	}
	errs = append(errs, alone(r.APIVersions, versions, "API versions")...)
	for i, version := range r.APIVersions {
		errs = append(errs, v.Required(version, versions.Index(i))...)
	}
	errs = append(errs, resources(r.Resources, path.Child("resources"))...)
	return append(errs, v.OptionalEnum(r.Scope, path.Child("scope"),
		admissionv1.AllScopes, admissionv1.ClusterScope, admissionv1.NamespacedScope)...)
}

func operations(list []admissionv1.OperationType, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	errs = append(errs, alone(list, path, "operations")...)
	for i, o := range list {
		errs = append(errs, v.Supported(o, path.Index(i),
			admissionv1.OperationAll, admissionv1.Connect, admissionv1.Create, admissionv1.Delete, admissionv1.Update)...)
	}
	return errs
}

// alone checks that "*" has nothing beside it.
func alone[T ~string](list []T, path *field.Path, what string) field.ErrorList {
	if len(list) > 1 && slices.Contains(list, wildcard) {
		return field.ErrorList{field.Invalid(path, list, "if '*' is present, must not specify other "+what)}
	}
	return nil
}

// resources checks names of resources and subresources, such as pods, pods/log, pods/* and */scale.
func resources(list []string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(list) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	var every, plain bool
	allOf, ofAll := sets.New[string](), sets.New[string]()
	for i, name := range list {
		if name == "" {
			errs = append(errs, field.Required(path.Index(i), ""))
			continue
		}
		every = every || name == wildcard
		parent, sub, divided := strings.Cut(name, "/")
		if !divided {
			plain = name != wildcard // of the last such name, in Kubernetes too
			continue
		}
		if allOf.Has(parent) {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("if '%s/*' is present, must not specify %s", parent, name)))
		}
		if ofAll.Has(sub) {
			errs = append(errs, field.Invalid(path.Index(i), name, fmt.Sprintf("if '*/%s' is present, must not specify %s", sub, name)))
		}
		if sub == wildcard {
			allOf.Insert(parent)
		}
		if parent == wildcard {
			ofAll.Insert(sub)
		}
	}
	if len(list) > 1 && slices.Contains(list, "*/*") {
		errs = append(errs, field.Invalid(path, list, "if '*/*' is present, must not specify other resources"))
	}
	if every && plain {
		errs = append(errs, field.Invalid(path, list, "if '*' is present, must not specify other resources without subresources"))
	}
	return errs
}
