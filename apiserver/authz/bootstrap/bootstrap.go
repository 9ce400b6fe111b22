// Package bootstrap holds the roles and bindings that every cluster has from its first moment, and makes those that are
// missing.
//
// What an administrator added to one of them stays; what was taken away comes back at the next start, unless the object
// says rbac.authorization.kubernetes.io/autoupdate: "false".
package bootstrap

import (
	"context"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"

	"github.com/peapod/peapod/apiserver/ensure"
)

// Reconcile makes what is missing: four lists, and one write for each object that is not as it should be. It may run at
// any time and on several servers at once.
func Reconcile(ctx context.Context, client kubernetes.Interface) error {
	if err := ensure.Retry(func() error { return reconcileOnce(ctx, client) }); err != nil {
		return fmt.Errorf("reconcile default roles: %w", err)
	}
	return nil
}

func reconcileOnce(ctx context.Context, client kubernetes.Interface) error {
	for _, name := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		_, err := client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name}}
			_, err = client.CoreV1().Namespaces().Create(ctx, ns, metav1.CreateOptions{})
		}
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("make namespace %s: %w", name, err)
		}
	}
	api := client.RbacV1()
	listOptions := metav1.ListOptions{}
	var writes []func() error
	clusterRoles, err := api.ClusterRoles().List(ctx, listOptions)
	if err != nil {
		return fmt.Errorf("list cluster roles: %w", err)
	}
	writes = append(writes, work(ctx, append(ClusterRoles(), ControllerRoles()...), clusterRoles.Items, api.ClusterRoles(), mergeClusterRole)...)
	bindings, err := api.ClusterRoleBindings().List(ctx, listOptions)
	if err != nil {
		return fmt.Errorf("list cluster role bindings: %w", err)
	}
	writes = append(writes, work(ctx, ClusterRoleBindings(), bindings.Items, api.ClusterRoleBindings(), mergeClusterRoleBinding)...)
	for _, namespace := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		roles, err := api.Roles(namespace).List(ctx, listOptions)
		if err != nil {
			return fmt.Errorf("list roles: %w", err)
		}
		writes = append(writes, work(ctx, in(namespace, Roles()), roles.Items, api.Roles(namespace), mergeRole)...)
		bindings, err := api.RoleBindings(namespace).List(ctx, listOptions)
		if err != nil {
			return fmt.Errorf("list role bindings: %w", err)
		}
		writes = append(writes, work(ctx, in(namespace, RoleBindings()), bindings.Items, api.RoleBindings(namespace), mergeRoleBinding)...)
	}
	return ensure.Run(writes)
}

// in returns the objects of that namespace.
func in[T any, P ensure.Pointer[T]](namespace string, list []T) []T {
	var some []T
	for i := range list {
		if P(&list[i]).GetNamespace() == namespace {
			some = append(some, list[i])
		}
	}
	return some
}

// work returns the writes that turn have into want. merge completes an existing object, unless that says to be left alone.
func work[T any, P ensure.Pointer[T]](ctx context.Context, want, have []T, client ensure.Writer[T], merge func(have, want P) ensure.Outcome) []func() error {
	return ensure.Objects[T, P]{Client: client, Want: want, Have: have, Merge: func(have, want P) ensure.Outcome {
		if have.GetAnnotations()[autoUpdateAnnotation] == "false" {
			return ensure.Fine
		}
		return merge(have, want)
	}}.Work(ctx)
}

// mergeMeta adds labels and annotations that are missing, and says whether it did.
func mergeMeta(have, want metav1.Object) bool {
	add := func(have, want map[string]string) (map[string]string, bool) {
		all := maps.Clone(want)
		if all == nil {
			all = map[string]string{}
		}
		maps.Copy(all, have)
		return all, len(all) != len(have)
	}
	labels, more := add(have.GetLabels(), want.GetLabels())
	annotations, evenMore := add(have.GetAnnotations(), want.GetAnnotations())
	if more {
		have.SetLabels(labels)
	}
	if evenMore {
		have.SetAnnotations(annotations)
	}
	return more || evenMore
}

func asChange(b bool) ensure.Outcome {
	if b {
		return ensure.Changed
	}
	return ensure.Fine
}

// mergeRules appends the rules of want that have does not cover.
func mergeRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) bool {
	covered, missing := validation.Covers(*have, want)
	*have = append(*have, missing...)
	return !covered
}

func mergeClusterRole(have, want *rbacv1.ClusterRole) ensure.Outcome {
	differs := mergeMeta(have, want)
	if want.AggregationRule == nil {
		return asChange(mergeRules(&have.Rules, want.Rules) || differs)
	}
	if have.AggregationRule == nil {
		have.AggregationRule = &rbacv1.AggregationRule{}
	}
	for _, selector := range want.AggregationRule.ClusterRoleSelectors {
		found := false
		for _, existing := range have.AggregationRule.ClusterRoleSelectors {
			found = found || equality.Semantic.DeepEqual(selector, existing)
		}
		if !found {
			have.AggregationRule.ClusterRoleSelectors = append(have.AggregationRule.ClusterRoleSelectors, selector)
			differs = true
		}
	}
	return asChange(differs)
}

func mergeRole(have, want *rbacv1.Role) ensure.Outcome {
	differs := mergeMeta(have, want)
	return asChange(mergeRules(&have.Rules, want.Rules) || differs)
}

// mergeSubjects appends the subjects of want that have lacks.
func mergeSubjects(have *[]rbacv1.Subject, want []rbacv1.Subject) bool {
	differs := false
	for _, s := range want {
		found := false
		for _, existing := range *have {
			found = found || s == existing
		}
		if !found {
			*have = append(*have, s)
			differs = true
		}
	}
	return differs
}

func mergeClusterRoleBinding(have, want *rbacv1.ClusterRoleBinding) ensure.Outcome {
	if have.RoleRef != want.RoleRef {
		return ensure.Replaced
	}
	differs := mergeMeta(have, want)
	return asChange(mergeSubjects(&have.Subjects, want.Subjects) || differs)
}

func mergeRoleBinding(have, want *rbacv1.RoleBinding) ensure.Outcome {
	if have.RoleRef != want.RoleRef {
		return ensure.Replaced
	}
	differs := mergeMeta(have, want)
	return asChange(mergeSubjects(&have.Subjects, want.Subjects) || differs)
}
