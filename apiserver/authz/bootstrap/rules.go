package bootstrap

import (
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
)

// The roles are written in tables of rules in a compact form: verbs, groups, resources and names are lists separated by
// spaces. In groups, "core" stands for the group without a name.

const (
	readVerbs      = "get list watch"
	writeVerbs     = "create delete deletecollection patch update"
	readWriteVerbs = "create delete deletecollection get list patch update watch"
)

// rule allows verbs on resources.
func rule(verbs, groups, resources string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), APIGroups: groupNames(groups), Resources: strings.Fields(resources)}
}

// named is rule, for objects of those names only.
func named(verbs, groups, resources, names string) rbacv1.PolicyRule {
	r := rule(verbs, groups, resources)
	r.ResourceNames = strings.Fields(names)
	return r
}

// paths allows verbs on what is not a resource.
func paths(verbs, urls string) rbacv1.PolicyRule {
	return rbacv1.PolicyRule{Verbs: strings.Fields(verbs), NonResourceURLs: strings.Fields(urls)}
}

// events allows to write events.
func events() rbacv1.PolicyRule { return rule("create patch update", "core events.k8s.io", "events") }

func groupNames(list string) []string {
	names := strings.Fields(list)
	for i, n := range names {
		if n == "core" {
			names[i] = ""
		}
	}
	return names
}
