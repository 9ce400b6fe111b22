// Package rbac decides by Roles, ClusterRoles and their bindings.
//
// The objects come from informers. Bindings are indexed by the subjects that they name, so that a decision looks at the
// bindings of the user and of the user's groups, and at no others.
package rbac

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/cache"
)

// Config are the stores of the four kinds. Those of the bindings have the index that SubjectIndexers makes.
type Config struct {
	Roles, RoleBindings, ClusterRoles, ClusterRoleBindings cache.Indexer
}

// Evaluator answers from the stores as they are at the moment of the question.
type Evaluator struct{ cfg Config }

var (
	_ authorizer.Authorizer   = &Evaluator{}
	_ authorizer.RuleResolver = &Evaluator{}
)

// New makes an evaluator.
func New(cfg Config) *Evaluator { return &Evaluator{cfg: cfg} }

// subjectIndex is the index of bindings by subject.
const subjectIndex = "subject"

// SubjectIndexers returns what a binding informer needs, before it starts, to be a store of Config.
func SubjectIndexers() cache.Indexers {
	return cache.Indexers{subjectIndex: func(obj any) ([]string, error) {
		var keys []string
		switch b := obj.(type) {
		case *rbacv1.ClusterRoleBinding:
			for _, s := range b.Subjects {
				keys = append(keys, subjectKey("", s.Kind, subjectName(s, "")))
			}
		case *rbacv1.RoleBinding:
			for _, s := range b.Subjects {
				keys = append(keys, subjectKey(b.Namespace, s.Kind, subjectName(s, b.Namespace)))
			}
		default:
			return nil, fmt.Errorf("index binding: unexpected type %T", obj)
		}
		return keys, nil
	}}
}

// subjectName is the user or group name of a subject in a binding in that namespace.
func subjectName(s rbacv1.Subject, namespace string) string {
	if s.Kind != rbacv1.ServiceAccountKind {
		return s.Name
	}
	if s.Namespace != "" {
		namespace = s.Namespace
	}
	if namespace == "" {
		return ""
	}
	return serviceaccount.MakeUsername(namespace, s.Name)
}

// subjectKey separates with a character that no namespace or kind has.
func subjectKey(namespace, kind, name string) string { return namespace + "|" + kind + "|" + name }

// subjectKeys are the keys under which bindings in namespace (empty for cluster-wide ones) that concern u are found.
func subjectKeys(u user.Info, namespace string) []string {
	keys := []string{
		subjectKey(namespace, rbacv1.UserKind, u.GetName()),
		subjectKey(namespace, rbacv1.ServiceAccountKind, u.GetName()),
	}
	for _, g := range u.GetGroups() {
		keys = append(keys, subjectKey(namespace, rbacv1.GroupKind, g))
	}
	return keys
}

// matches says whether subject, of a binding in that namespace, is u or one of its groups.
func matches(s rbacv1.Subject, u user.Info, namespace string) bool {
	name := subjectName(s, namespace)
	switch s.Kind {
	case rbacv1.UserKind, rbacv1.ServiceAccountKind:
		return name != "" && name == u.GetName()
	case rbacv1.GroupKind:
		for _, g := range u.GetGroups() {
			if g == name {
				return true
			}
		}
	}
	return false
}

// grant is what one binding gives.
type grant struct {
	// describe says where the rules come from.
	describe func() string
	rules    []rbacv1.PolicyRule
}

// visit calls use with what each binding gives u in namespace, cluster-wide bindings first, until it returns false. The
// errors are those of bindings whose role could not be had; they give nothing.
func (e *Evaluator) visit(u user.Info, namespace string, use func(grant) bool) error {
	var errs []error
	scopes := []string{""}
	if namespace != "" {
		scopes = append(scopes, namespace)
	}
	for _, scope := range scopes {
		store := e.cfg.ClusterRoleBindings
		if scope != "" {
			store = e.cfg.RoleBindings
		}
		seen := map[any]bool{}
		for _, key := range subjectKeys(u, scope) {
			bindings, err := store.ByIndex(subjectIndex, key)
			if err != nil {
				return fmt.Errorf("find bindings: %w", err)
			}
			for _, b := range bindings {
				if seen[b] {
					continue
				}
				seen[b] = true
				g, found, err := e.grantOf(b, u)
				if err != nil {
					errs = append(errs, err)
				} else if found && !use(g) {
					return nil
				}
			}
		}
	}
	return utilerrors.NewAggregate(errs)
}

// grantOf returns what binding b gives u.
func (e *Evaluator) grantOf(b any, u user.Info) (grant, bool, error) {
	var (
		kind, name, namespace string
		ref                   rbacv1.RoleRef
		subjects              []rbacv1.Subject
	)
	switch b := b.(type) {
	case *rbacv1.ClusterRoleBinding:
		kind, name, ref, subjects = "ClusterRoleBinding", b.Name, b.RoleRef, b.Subjects
	case *rbacv1.RoleBinding:
		kind, name, namespace, ref, subjects = "RoleBinding", b.Name+"/"+b.Namespace, b.Namespace, b.RoleRef, b.Subjects
	}
	for _, s := range subjects {
		if !matches(s, u, namespace) {
			continue
		}
		rules, err := e.RoleRules(ref, namespace)
		if err != nil {
			return grant{}, false, err
		}
		return grant{rules: rules, describe: func() string {
			return fmt.Sprintf("%s %q of %s %q to %s", kind, name, ref.Kind, ref.Name, describeSubject(s, namespace))
		}}, true, nil
	}
	return grant{}, false, nil
}

func describeSubject(s rbacv1.Subject, namespace string) string {
	if s.Kind != rbacv1.ServiceAccountKind {
		return fmt.Sprintf("%s %q", s.Kind, s.Name)
	}
	if s.Namespace != "" {
		namespace = s.Namespace
	}
	return fmt.Sprintf("%s %q", s.Kind, s.Name+"/"+namespace)
}

// RoleRules returns the rules of the role that a binding in namespace refers to.
func (e *Evaluator) RoleRules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	store, key, resource := e.cfg.ClusterRoles, ref.Name, "clusterroles"
	switch ref.Kind {
	case "Role":
		store, key, resource = e.cfg.Roles, namespace+"/"+ref.Name, "roles"
	case "ClusterRole":
	default:
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
	obj, found, err := store.GetByKey(key)
	if err != nil {
		return nil, fmt.Errorf("look up role %s: %w", key, err)
	}
	if !found {
		return nil, apierrors.NewNotFound(rbacv1.Resource(resource[:len(resource)-1]), ref.Name)
	}
	switch r := obj.(type) {
	case *rbacv1.Role:
		return r.Rules, nil
	case *rbacv1.ClusterRole:
		return r.Rules, nil
	}
	return nil, fmt.Errorf("look up role %s: unexpected type %T", key, obj)
}

// Authorize allows what some rule allows, and leaves the rest to others.
func (e *Evaluator) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	allowed := ""
	err := e.visit(a.GetUser(), a.GetNamespace(), func(g grant) bool {
		if RulesAllow(a, g.rules...) {
			allowed = "RBAC: allowed by " + g.describe()
		}
		return allowed == ""
	})
	if allowed != "" {
		return authorizer.DecisionAllow, allowed, nil
	}
	if err != nil {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("RBAC: %v", err), nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

// ConditionsAwareAuthorize is Authorize: there are no conditions here.
func (e *Evaluator) ConditionsAwareAuthorize(ctx context.Context, a authorizer.Attributes) authorizer.ConditionsAwareDecision {
	return authorizer.ConditionsAwareDecisionFromParts(e.Authorize(ctx, a))
}

// EvaluateConditions is never needed: there are no conditions here.
func (e *Evaluator) EvaluateConditions(context.Context, authorizer.ConditionsAwareDecision, authorizer.ConditionsData) (authorizer.Decision, string, error) {
	return authorizer.DecisionDeny, "", authorizer.ErrorConditionEvaluationNotSupported
}

// Rules returns all rules that u has in namespace. With an error they are those that could be had.
func (e *Evaluator) Rules(u user.Info, namespace string) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	err := e.visit(u, namespace, func(g grant) bool {
		rules = append(rules, g.rules...)
		return true
	})
	return rules, err
}

// RulesFor is Rules in the form that SelfSubjectRulesReview wants.
func (e *Evaluator) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if u == nil {
		return nil, nil, false, errors.New("find rules: no user given")
	}
	rules, err := e.Rules(u, namespace)
	var resources []authorizer.ResourceRuleInfo
	var paths []authorizer.NonResourceRuleInfo
	for _, r := range rules {
		if len(r.Resources) > 0 {
			resources = append(resources, &authorizer.DefaultResourceRuleInfo{Verbs: r.Verbs, APIGroups: r.APIGroups,
				Resources: r.Resources, ResourceNames: r.ResourceNames})
		}
		if len(r.NonResourceURLs) > 0 {
			paths = append(paths, &authorizer.DefaultNonResourceRuleInfo{Verbs: r.Verbs, NonResourceURLs: r.NonResourceURLs})
		}
	}
	return resources, paths, false, err
}
