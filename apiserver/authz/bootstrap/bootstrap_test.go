package bootstrap

import (
	"slices"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"

	"github.com/peapod/peapod/api/rbac/policy"
)

// TestRoles: each role is valid, named once, and every binding refers to one.
func TestRoles(t *testing.T) {
	names := map[string]bool{}
	check := func(key string, rules []rbacv1.PolicyRule, namespaced bool) {
		if names[key] {
			t.Errorf("%s is there twice", key)
		}
		names[key] = true
		for _, err := range policy.ValidateRules(rules, namespaced) {
			t.Errorf("%s: %v", key, err)
		}
		for _, r := range rules {
			for _, list := range [][]string{r.Verbs, r.Resources, r.APIGroups} {
				if slices.Contains(list, "core") || len(slices.Compact(slices.Sorted(slices.Values(list)))) != len(list) {
					t.Errorf("%s: %v", key, list)
				}
			}
		}
	}
	for _, r := range append(ClusterRoles(), ControllerRoles()...) {
		if (r.AggregationRule == nil) == (len(r.Rules) == 0) {
			t.Errorf("%s has neither rules nor parts, or both", r.Name)
		}
		check("ClusterRole "+r.Name, r.Rules, false)
		if r.Labels[bootstrappingLabel] != "rbac-defaults" || r.Annotations[autoUpdateAnnotation] != "true" {
			t.Errorf("%s has labels %v, annotations %v", r.Name, r.Labels, r.Annotations)
		}
	}
	for _, r := range Roles() {
		check("Role "+r.Namespace+"/"+r.Name, r.Rules, true)
	}
	for _, b := range ClusterRoleBindings() {
		if !names["ClusterRole "+b.RoleRef.Name] {
			t.Errorf("cluster role binding %s refers to %s", b.Name, b.RoleRef.Name)
		}
		for _, err := range policy.ValidateBinding(b.RoleRef, b.Subjects, false, "ClusterRole") {
			t.Errorf("%s: %v", b.Name, err)
		}
	}
	for _, b := range RoleBindings() {
		if !names["Role "+b.Namespace+"/"+b.RoleRef.Name] {
			t.Errorf("role binding %s refers to %s", b.Name, b.RoleRef.Name)
		}
		for _, err := range policy.ValidateBinding(b.RoleRef, b.Subjects, true, "Role") {
			t.Errorf("%s: %v", b.Name, err)
		}
	}
}

// TestNothingForAnonymous: who shows no credential is given health and version, and no more.
func TestNothingForAnonymous(t *testing.T) {
	for _, b := range ClusterRoleBindings() {
		for _, s := range b.Subjects {
			if s.Name == "system:unauthenticated" && b.RoleRef.Name != "system:public-info-viewer" || s.Name == "system:anonymous" {
				t.Errorf("%s gives %s %s", b.Name, s.Name, b.RoleRef.Name)
			}
		}
	}
	// Nodes have what they have by the node authorizer: a binding would give each what only one may have. That a node may
	// ask for its own next certificate is said in its name.
	for _, b := range ClusterRoleBindings() {
		for _, s := range b.Subjects {
			if strings.Contains(s.Name, "system:nodes") && !strings.HasSuffix(b.RoleRef.Name, ":selfnodeclient") {
				t.Errorf("%s is bound to nodes", b.Name)
			}
		}
	}
}
