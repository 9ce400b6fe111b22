// Package bootstrap holds the roles and bindings that every cluster has from its first moment, and makes those that are
// missing.
//
// What an administrator added to one of them stays; what was taken away comes back at the next start, unless the object
// says rbac.authorization.kubernetes.io/autoupdate: "false".
package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/auth/rbac/validation"
	"k8s.io/klog/v2"
)

const (
	// writers is how many writes are under way at once: they share the store's group commit.
	writers = 16
	// attempts is how often the whole is tried where another writer is faster.
	attempts = 5
)

// Reconcile makes what is missing: four lists, and one write for each object that is not as it should be. It may run at
// any time and on several servers at once.
func Reconcile(ctx context.Context, client kubernetes.Interface) error {
	var err error
	for range attempts {
		if err = reconcileOnce(ctx, client); err == nil || !lostRace(err) {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("reconcile default roles: %w", err)
	}
	return nil
}

func lostRace(err error) bool { return apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) }

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
	var work []func() error
	clusterRoles, err := api.ClusterRoles().List(ctx, listOptions)
	if err != nil {
		return fmt.Errorf("list cluster roles: %w", err)
	}
	work = append(work, plan(ctx, append(ClusterRoles(), ControllerRoles()...), clusterRoles.Items, api.ClusterRoles(), mergeClusterRole)...)
	bindings, err := api.ClusterRoleBindings().List(ctx, listOptions)
	if err != nil {
		return fmt.Errorf("list cluster role bindings: %w", err)
	}
	work = append(work, plan(ctx, ClusterRoleBindings(), bindings.Items, api.ClusterRoleBindings(), mergeClusterRoleBinding)...)
	for _, namespace := range []string{metav1.NamespaceSystem, metav1.NamespacePublic} {
		roles, err := api.Roles(namespace).List(ctx, listOptions)
		if err != nil {
			return fmt.Errorf("list roles: %w", err)
		}
		work = append(work, plan(ctx, in(namespace, Roles()), roles.Items, api.Roles(namespace), mergeRole)...)
		bindings, err := api.RoleBindings(namespace).List(ctx, listOptions)
		if err != nil {
			return fmt.Errorf("list role bindings: %w", err)
		}
		work = append(work, plan(ctx, in(namespace, RoleBindings()), bindings.Items, api.RoleBindings(namespace), mergeRoleBinding)...)
	}
	return run(work)
}

// pointer constrains *T to be an API object.
type pointer[T any] interface {
	*T
	metav1.Object
}

// in returns the objects of that namespace.
func in[T any, P pointer[T]](namespace string, list []T) []T {
	var some []T
	for i := range list {
		if P(&list[i]).GetNamespace() == namespace {
			some = append(some, list[i])
		}
	}
	return some
}

// writer is the part of a typed client that is needed here.
type writer[T any] interface {
	Create(ctx context.Context, obj *T, opts metav1.CreateOptions) (*T, error)
	Update(ctx context.Context, obj *T, opts metav1.UpdateOptions) (*T, error)
	Delete(ctx context.Context, name string, opts metav1.DeleteOptions) error
}

// outcome is what merge says of an existing object.
type outcome int

const (
	fine outcome = iota
	changed
	// replace is for what cannot be changed: the role that a binding refers to.
	replace
)

// plan returns the writes that turn have into want. merge completes an existing object.
func plan[T any, P pointer[T]](ctx context.Context, want, have []T, client writer[T], merge func(have, want P) outcome) []func() error {
	byName := make(map[string]*T, len(have))
	for i := range have {
		byName[P(&have[i]).GetName()] = &have[i]
	}
	log := klog.FromContext(ctx)
	var work []func() error
	for i := range want {
		wanted, name := &want[i], P(&want[i]).GetName()
		create := func() error {
			_, err := client.Create(ctx, wanted, metav1.CreateOptions{})
			return err
		}
		existing := byName[name]
		if existing == nil {
			work = append(work, create)
			continue
		}
		if P(existing).GetAnnotations()[autoUpdateAnnotation] == "false" {
			continue
		}
		switch merge(P(existing), P(wanted)) {
		case changed:
			log.Info("Restoring default role or binding", "name", name)
			work = append(work, func() error {
				_, err := client.Update(ctx, existing, metav1.UpdateOptions{})
				return err
			})
		case replace:
			log.Info("Replacing default binding that refers to another role", "name", name)
			work = append(work, func() error {
				uid := P(existing).GetUID()
				err := client.Delete(ctx, name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &uid}})
				if err != nil && !apierrors.IsNotFound(err) {
					return err
				}
				return create()
			})
		}
	}
	return work
}

// run does all the work and returns the errors; one that is no lost race comes before those that are.
func run(work []func() error) error {
	queue := make(chan func() error)
	var (
		wg          sync.WaitGroup
		mu          sync.Mutex
		races, errs []error
	)
	for range min(writers, len(work)) {
		wg.Go(func() {
			for f := range queue {
				if err := f(); err != nil {
					mu.Lock()
					if lostRace(err) {
						races = append(races, err)
					} else {
						errs = append(errs, err)
					}
					mu.Unlock()
				}
			}
		})
	}
	for _, f := range work {
		queue <- f
	}
	close(queue)
	wg.Wait()
	if len(errs) > 0 {
		return errors.Join(errs...)
	}
	if len(races) > 0 {
		return races[0]
	}
	return nil
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

func asChange(b bool) outcome {
	if b {
		return changed
	}
	return fine
}

// mergeRules appends the rules of want that have does not cover.
func mergeRules(have *[]rbacv1.PolicyRule, want []rbacv1.PolicyRule) bool {
	covered, missing := validation.Covers(*have, want)
	*have = append(*have, missing...)
	return !covered
}

func mergeClusterRole(have, want *rbacv1.ClusterRole) outcome {
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

func mergeRole(have, want *rbacv1.Role) outcome {
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

func mergeClusterRoleBinding(have, want *rbacv1.ClusterRoleBinding) outcome {
	if have.RoleRef != want.RoleRef {
		return replace
	}
	differs := mergeMeta(have, want)
	return asChange(mergeSubjects(&have.Subjects, want.Subjects) || differs)
}

func mergeRoleBinding(have, want *rbacv1.RoleBinding) outcome {
	if have.RoleRef != want.RoleRef {
		return replace
	}
	differs := mergeMeta(have, want)
	return asChange(mergeSubjects(&have.Subjects, want.Subjects) || differs)
}
