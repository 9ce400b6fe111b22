// Package paramaccess keeps users from having policies read for them, as parameters, what they may not read themselves.
package paramaccess

import (
	"context"
	"fmt"
	"slices"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes"
)

// Plugin checks writes of policies and their bindings.
type Plugin struct {
	*admission.Handler
	client     kubernetes.Interface
	authorizer authorizer.Authorizer
	kinds      meta.RESTMapper
}

var _ admission.ValidationInterface = &Plugin{}

// New makes the plugin. Kinds finds the resources of parameters.
func New(client kubernetes.Interface, authorizer authorizer.Authorizer, kinds meta.RESTMapper) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create, admission.Update), client, authorizer, kinds}
}

// Validate refuses a policy whose user may not read all objects of the kind of its parameters, and a binding whose user may not read
// those that it refers to.
func (p *Plugin) Validate(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().Group != admissionv1.GroupName || a.GetSubresource() != "" ||
		slices.Contains(a.GetUserInfo().GetGroups(), user.SystemPrivilegedGroup) {
		return nil
	}
	if kind := kindOf(a.GetObject()); kind != nil && !equality.Semantic.DeepEqual(kind, kindOf(a.GetOldObject())) {
		return p.policy(ctx, a, kind)
	}
	now, was := bindingOf(a.GetObject()), bindingOf(a.GetOldObject())
	if now.params != nil && (now.policy != was.policy || !equality.Semantic.DeepEqual(now.params, was.params)) {
		return p.binding(ctx, a, now)
	}
	return nil
}

// kindOf returns the kind of a policy's parameters, nil where there are none.
func kindOf(obj runtime.Object) *admissionv1.ParamKind {
	switch o := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return o.Spec.ParamKind
	case *admissionv1.MutatingAdmissionPolicy:
		return o.Spec.ParamKind
	}
	return nil
}

// binding is what counts of a binding.
type binding struct {
	policy string
	params *admissionv1.ParamRef
}

func bindingOf(obj runtime.Object) binding {
	switch o := obj.(type) {
	case *admissionv1.ValidatingAdmissionPolicyBinding:
		return binding{o.Spec.PolicyName, o.Spec.ParamRef}
	case *admissionv1.MutatingAdmissionPolicyBinding:
		return binding{o.Spec.PolicyName, o.Spec.ParamRef}
	}
	return binding{}
}

func (p *Plugin) policy(ctx context.Context, a admission.Attributes, kind *admissionv1.ParamKind) error {
	asked := p.about(kind)
	asked.Verb, asked.Namespace, asked.Name = "get", "*", "*"
	return p.confirm(ctx, a, asked, "paramKind", fmt.Sprintf(
		`user %q must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`,
		a.GetUserInfo().GetName(), kind.Kind, kind.APIVersion))
}

func (p *Plugin) binding(ctx context.Context, a admission.Attributes, b binding) error {
	asked := p.about(p.paramKind(ctx, a.GetKind().Kind, b.policy))
	asked.Verb, asked.Namespace, asked.Name = "get", b.params.Namespace, b.params.Name
	if b.params.Name == "" {
		asked.Verb = "list"
	}
	return p.confirm(ctx, a, asked, "paramRef", fmt.Sprintf(
		`user %q does not have %q permission on the object referenced by paramRef`, a.GetUserInfo().GetName(), asked.Verb))
}

// paramKind returns the kind of the parameters of the policy that a binding of the given kind names, nil where that cannot be told: the
// policy may come later.
func (p *Plugin) paramKind(ctx context.Context, kind, policy string) *admissionv1.ParamKind {
	policies := p.client.AdmissionregistrationV1()
	if kind == "MutatingAdmissionPolicyBinding" {
		if found, err := policies.MutatingAdmissionPolicies().Get(ctx, policy, metav1.GetOptions{}); err == nil {
			return found.Spec.ParamKind
		}
		return nil
	}
	if found, err := policies.ValidatingAdmissionPolicies().Get(ctx, policy, metav1.GetOptions{}); err == nil {
		return found.Spec.ParamKind
	}
	return nil
}

// about says what is to be read. Where the kind cannot be told that is anything.
func (p *Plugin) about(kind *admissionv1.ParamKind) authorizer.AttributesRecord {
	anything := authorizer.AttributesRecord{ResourceRequest: true, APIGroup: "*", APIVersion: "*", Resource: "*"}
	if kind == nil {
		return anything
	}
	gv, err := schema.ParseGroupVersion(kind.APIVersion)
	if err != nil {
		return anything
	}
	anything.APIGroup, anything.APIVersion = gv.Group, gv.Version
	if found, err := p.kinds.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: kind.Kind}, gv.Version); err == nil {
		anything.Resource = found.Resource.Resource
	}
	return anything
}

// confirm refuses, naming the field, what the user may not do.
func (p *Plugin) confirm(ctx context.Context, a admission.Attributes, asked authorizer.AttributesRecord, child, refusal string) error {
	asked.User = a.GetUserInfo()
	decision, _, err := p.authorizer.Authorize(ctx, asked)
	if err == nil && decision == authorizer.DecisionAllow {
		return nil
	}
	if err != nil {
		refusal = err.Error()
	}
	return apierrors.NewInvalid(a.GetKind().GroupKind(), a.GetName(),
		field.ErrorList{field.Forbidden(field.NewPath("spec", child), refusal)})
}
