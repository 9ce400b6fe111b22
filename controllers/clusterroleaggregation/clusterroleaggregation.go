// Package clusterroleaggregation fills the cluster roles that collect others: admin, edit and view, and those of users.
package clusterroleaggregation

import (
	"context"
	"fmt"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbacapply "k8s.io/client-go/applyconfigurations/rbac/v1"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts, and of the owner of the rules that it
// writes; upstream's, so that the bootstrap role of the same name fits.
const Name = "clusterrole-aggregation-controller"

// New returns the controller. A key is a role that collects others; any event of any cluster role queues them all, since
// the role may belong to them or may have belonged to them before.
func New(d engine.Deps) (engine.Runner, error) {
	roles := d.Informers.Rbac().V1().ClusterRoles()
	lister := roles.Lister()
	loop := &engine.Loop{Name: Name}
	loop.Sync = func(ctx context.Context, key cache.ObjectName) error {
		role, err := lister.Get(key.Name)
		if apierrors.IsNotFound(err) || err == nil && role.AggregationRule == nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read cluster role %s: %w", key.Name, err)
		}
		rules, err := collect(lister, role)
		if err != nil || equality.Semantic.DeepEqual(rules, role.Rules) {
			return err
		}
		apply := rbacapply.ClusterRole(role.Name)
		for i := range rules {
			apply.WithRules(rule(&rules[i]))
		}
		_, err = d.Client.RbacV1().ClusterRoles().Apply(ctx, apply, metav1.ApplyOptions{FieldManager: Name, Force: true})
		if err != nil {
			return fmt.Errorf("write rules of cluster role %s: %w", role.Name, err)
		}
		return nil
	}
	all := func(any) {
		list, err := lister.List(labels.Everything())
		if err != nil {
			return // a lister of a store in memory does not fail
		}
		for _, role := range list {
			if role.AggregationRule != nil {
				loop.Add(cache.ObjectName{Name: role.Name})
			}
		}
	}
	synced, err := roles.Informer().AddEventHandler(engine.OnAny(all))
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	return loop, nil
}

// collect returns the rules of the roles that role's selectors match, in the order of the roles' names, each once.
func collect(lister rbaclisters.ClusterRoleLister, role *rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("read selector %d of cluster role %s: %w", i, role.Name, err)
		}
		parts, err := lister.List(selector)
		if err != nil {
			return nil, fmt.Errorf("list parts of cluster role %s: %w", role.Name, err)
		}
		slices.SortFunc(parts, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
		for _, part := range parts {
			if part.Name == role.Name {
				continue
			}
			for _, r := range part.Rules {
				same := func(have rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(have, r) }
				if !slices.ContainsFunc(rules, same) {
					rules = append(rules, r)
				}
			}
		}
	}
	return rules, nil
}

func rule(r *rbacv1.PolicyRule) *rbacapply.PolicyRuleApplyConfiguration {
	return rbacapply.PolicyRule().WithAPIGroups(r.APIGroups...).WithNonResourceURLs(r.NonResourceURLs...).
		WithResourceNames(r.ResourceNames...).WithResources(r.Resources...).WithVerbs(r.Verbs...)
}
