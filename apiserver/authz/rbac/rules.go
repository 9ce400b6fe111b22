package rbac

import (
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// RulesAllow says whether one of the rules allows what attributes describe.
func RulesAllow(a authorizer.Attributes, rules ...rbacv1.PolicyRule) bool {
	for i := range rules {
		if ruleAllows(a, &rules[i]) {
			return true
		}
	}
	return false
}

func ruleAllows(a authorizer.Attributes, rule *rbacv1.PolicyRule) bool {
	if !has(rule.Verbs, rbacv1.VerbAll, a.GetVerb()) {
		return false
	}
	if !a.IsResourceRequest() {
		return pathMatches(rule.NonResourceURLs, a.GetPath())
	}
	return has(rule.APIGroups, rbacv1.APIGroupAll, a.GetAPIGroup()) &&
		resourceMatches(rule.Resources, a.GetResource(), a.GetSubresource()) &&
		(len(rule.ResourceNames) == 0 || slices.Contains(rule.ResourceNames, a.GetName()))
}

// has says whether list holds all, which stands for everything, or one.
func has(list []string, all, one string) bool {
	return slices.Contains(list, all) || slices.Contains(list, one)
}

// resourceMatches takes "*" for every resource and subresource, and "*/sub" for that subresource of every resource.
// "pods" does not take in "pods/log".
func resourceMatches(list []string, resource, subresource string) bool {
	for _, r := range list {
		switch {
		case r == rbacv1.ResourceAll:
			return true
		case subresource == "":
			if r == resource {
				return true
			}
		default:
			parent, sub, found := strings.Cut(r, "/")
			if found && sub == subresource && (parent == resource || parent == "*") {
				return true
			}
		}
	}
	return false
}

// pathMatches takes "*" at the end of a path for all that begins with what is before it.
func pathMatches(list []string, path string) bool {
	for _, p := range list {
		if p == rbacv1.NonResourceAll || p == path {
			return true
		}
		if strings.HasSuffix(p, "*") && strings.HasPrefix(path, strings.TrimRight(p, "*")) {
			return true
		}
	}
	return false
}
