// Package rbacescalation keeps users from giving, by roles and bindings, what they do not have themselves: unless they
// hold the verbs escalate, on the role, or bind, on the role that is bound.
package rbacescalation

import (
	"context"
	"errors"
	"fmt"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"

	"github.com/peapod/peapod/apiserver/authz/rbac"
)

// Plugin checks writes of the four kinds of RBAC.
type Plugin struct {
	*admission.Handler
	client     kubernetes.Interface
	authorizer authorizer.Authorizer
	rbac       *rbac.Evaluator
}

var _ admission.ValidationInterface = &Plugin{}

// New makes the plugin.
func New(client kubernetes.Interface, authorizer authorizer.Authorizer, evaluator *rbac.Evaluator) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create, admission.Update), client, authorizer, evaluator}
}

// Validate refuses an escalation.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != rbacv1.GroupName || a.GetSubresource() != "" || mayDoAnything(a.GetUserInfo()) {
		return nil
	}
	obj, old := a.GetObject(), a.GetOldObject()
	if a.GetOperation() == admission.Update && onlyGarbageCollection(obj, old) {
		return nil
	}
	var err error
	switch o := obj.(type) {
	case *rbacv1.Role:
		was, _ := old.(*rbacv1.Role)
		if was != nil && equality.Semantic.DeepEqual(was.Rules, o.Rules) {
			return nil
		}
		err = p.role(ctx, a, o.Name, o.Rules)
	case *rbacv1.ClusterRole:
		was, _ := old.(*rbacv1.ClusterRole)
		if was != nil && equality.Semantic.DeepEqual(was.Rules, o.Rules) && equality.Semantic.DeepEqual(was.AggregationRule, o.AggregationRule) {
			return nil
		}
		err = p.clusterRole(ctx, a, o, was)
	case *rbacv1.RoleBinding:
		return p.binding(ctx, a, o.Name, o.RoleRef)
	case *rbacv1.ClusterRoleBinding:
		return p.binding(ctx, a, o.Name, o.RoleRef)
	}
	return err
}

func mayDoAnything(u user.Info) bool {
	for _, g := range u.GetGroups() {
		if g == user.SystemPrivilegedGroup {
			return true
		}
	}
	return false
}

// onlyGarbageCollection says whether an update changes owner references and finalizers alone, as the garbage collector
// does on its way to deleting the object.
func onlyGarbageCollection(obj, old runtime.Object) bool {
	if obj == nil || old == nil {
		return false
	}
	now, was := obj.DeepCopyObject(), old.DeepCopyObject()
	for _, o := range []runtime.Object{now, was} {
		m, ok := o.(metav1.Object)
		if !ok {
			return false
		}
		m.SetOwnerReferences(nil)
		m.SetFinalizers(nil)
		m.SetManagedFields(nil)
		m.SetResourceVersion("")
	}
	return equality.Semantic.DeepEqual(now, was)
}

func (p *Plugin) role(ctx context.Context, a admission.Attributes, name string, rules []rbacv1.PolicyRule) error {
	if p.may(ctx, a, "escalate", a.GetResource().Resource, name) {
		return nil
	}
	if err := p.rbac.ConfirmNoEscalation(a.GetUserInfo(), a.GetNamespace(), rules); err != nil {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), name, err)
	}
	return nil
}

func (p *Plugin) clusterRole(ctx context.Context, a admission.Attributes, role, old *rbacv1.ClusterRole) error {
	if p.may(ctx, a, "escalate", a.GetResource().Resource, role.Name) {
		return nil
	}
	if err := p.rbac.ConfirmNoEscalation(a.GetUserInfo(), "", role.Rules); err != nil {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), role.Name, err)
	}
	// A role that collects others may come to hold anything.
	if role.AggregationRule == nil && (old == nil || old.AggregationRule == nil) {
		return nil
	}
	everything := []rbacv1.PolicyRule{
		{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
		{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
	}
	if err := p.rbac.ConfirmNoEscalation(a.GetUserInfo(), "", everything); err != nil {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), role.Name,
			errors.New("must have cluster-admin privileges to use the aggregationRule"))
	}
	return nil
}

func (p *Plugin) binding(ctx context.Context, a admission.Attributes, name string, ref rbacv1.RoleRef) error {
	resource := "clusterroles"
	if ref.Kind == "Role" {
		resource = "roles"
	}
	if p.may(ctx, a, "bind", resource, ref.Name) {
		return nil
	}
	rules, err := p.rules(ctx, ref, a.GetNamespace())
	if err != nil {
		return err
	}
	if err := p.rbac.ConfirmNoEscalation(a.GetUserInfo(), a.GetNamespace(), rules); err != nil {
		return apierrors.NewForbidden(a.GetResource().GroupResource(), name, err)
	}
	return nil
}

// rules returns those of the role that is bound, which may have been made a moment ago.
func (p *Plugin) rules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	rules, err := p.rbac.RoleRules(ref, namespace)
	if !apierrors.IsNotFound(err) {
		return rules, err
	}
	notFound := err
	if ref.Kind == "Role" {
		role, err := p.client.RbacV1().Roles(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
		if err == nil {
			return role.Rules, nil
		}
		notFound = preferReal(err, notFound)
	} else {
		role, err := p.client.RbacV1().ClusterRoles().Get(ctx, ref.Name, metav1.GetOptions{})
		if err == nil {
			return role.Rules, nil
		}
		notFound = preferReal(err, notFound)
	}
	return nil, notFound
}

// preferReal returns notFound where err says the same, and err otherwise.
func preferReal(err, notFound error) error {
	if apierrors.IsNotFound(err) {
		return notFound
	}
	return fmt.Errorf("look up role: %w", err)
}

// may says whether the user holds a verb on a role. An error counts as no: the longer check follows.
func (p *Plugin) may(ctx context.Context, a admission.Attributes, verb, resource, name string) bool {
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{User: a.GetUserInfo(), Verb: verb,
		Namespace: a.GetNamespace(), APIGroup: rbacv1.GroupName, APIVersion: "*", Resource: resource, Name: name, ResourceRequest: true})
	return err == nil && decision == authorizer.DecisionAllow
}
