package rbac

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/component-helpers/auth/rbac/validation"
)

// ConfirmNoEscalation fails, listing what is missing, unless u holds all of rules in namespace.
func (e *Evaluator) ConfirmNoEscalation(u user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	held, resolution := e.Rules(u, namespace)
	covered, missing := validation.Covers(held, rules)
	if covered {
		return nil
	}
	var lines []string
	for _, r := range compact(missing) {
		lines = append(lines, describeRule(r))
	}
	slices.Sort(lines)
	msg := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		u.GetName(), u.GetGroups(), strings.Join(slices.Compact(lines), "\n"))
	if resolution != nil {
		msg += fmt.Sprintf("; resolution errors: %v", resolution)
	}
	return errors.New(msg)
}

// compact joins rules for the same single resource that differ in their verbs only.
func compact(rules []rbacv1.PolicyRule) []rbacv1.PolicyRule {
	type key struct{ group, resource string }
	at := map[key]int{}
	var all []rbacv1.PolicyRule
	for _, r := range rules {
		if len(r.APIGroups) != 1 || len(r.Resources) != 1 || len(r.ResourceNames) > 0 || len(r.NonResourceURLs) > 0 {
			all = append(all, r)
			continue
		}
		k := key{r.APIGroups[0], r.Resources[0]}
		i, seen := at[k]
		if !seen {
			at[k] = len(all)
			r.Verbs = slices.Clone(r.Verbs)
			all = append(all, r)
			continue
		}
		for _, v := range r.Verbs {
			if !slices.Contains(all[i].Verbs, v) {
				all[i].Verbs = append(all[i].Verbs, v)
			}
		}
	}
	return all
}

func describeRule(r rbacv1.PolicyRule) string {
	var parts []string
	for _, p := range []struct {
		name string
		list []string
	}{{"APIGroups", r.APIGroups}, {"Resources", r.Resources}, {"NonResourceURLs", r.NonResourceURLs},
		{"ResourceNames", r.ResourceNames}, {"Verbs", r.Verbs}} {
		if len(p.list) > 0 {
			parts = append(parts, fmt.Sprintf("%s:%q", p.name, p.list))
		}
	}
	return "{" + strings.Join(parts, ", ") + "}"
}
