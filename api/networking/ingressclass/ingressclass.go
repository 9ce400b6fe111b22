// Package ingressclass declares networking.k8s.io/v1 IngressClass.
package ingressclass

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/networking/reference"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[networkingv1.IngressClass](resource.Declaration{
		GVK:        networkingv1.SchemeGroupVersion.WithKind("IngressClass"),
		Plural:     "ingressclasses",
		Generation: true,
	}, func() runtime.Object { return &networkingv1.IngressClassList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*networkingv1.IngressClass]       = kind{}
	_ resource.Validator[*networkingv1.IngressClass]       = kind{}
	_ resource.UpdateValidator[*networkingv1.IngressClass] = kind{}
	_ resource.Printer[*networkingv1.IngressClass]         = kind{}
)

const maxController = 250

var specPath = field.NewPath("spec")

// Default says where the parameters are.
func (kind) Default(obj *networkingv1.IngressClass) {
	if p := obj.Spec.Parameters; p != nil && p.Scope == nil {
		p.Scope = ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster)
	}
}

// Validate checks a class.
func (kind) Validate(_ context.Context, obj *networkingv1.IngressClass) field.ErrorList {
	var errs field.ErrorList
	path := specPath.Child("controller")
	if len(obj.Spec.Controller) > maxController {
		errs = append(errs, field.TooLong(path, "", maxController))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(path, obj.Spec.Controller)...)
	if obj.Spec.Parameters != nil {
		errs = append(errs, validateParameters(obj.Spec.Parameters, specPath.Child("parameters"))...)
	}
	return errs
}

func validateParameters(p *networkingv1.IngressClassParametersReference, path *field.Path) field.ErrorList {
	errs := reference.Validate(&corev1.TypedLocalObjectReference{APIGroup: p.APIGroup, Kind: p.Kind, Name: p.Name}, path)
	if p.Scope == nil {
		return append(errs, field.Required(path.Child("scope"), ""))
	}
	namespace := path.Child("namespace")
	switch *p.Scope {
	case networkingv1.IngressClassParametersReferenceScopeNamespace:
		if p.Namespace == nil {
			return append(errs, field.Required(namespace, "`parameters.scope` is set to 'Namespace'"))
		}
		return append(errs, v.Messages(apivalidation.ValidateNamespaceName(*p.Namespace, false), *p.Namespace, namespace)...)
	case networkingv1.IngressClassParametersReferenceScopeCluster:
		if p.Namespace != nil {
			errs = append(errs, field.Forbidden(namespace, "`parameters.scope` is set to 'Cluster'"))
		}
		return errs
	}
	return append(errs, field.NotSupported(path.Child("scope"), *p.Scope, []string{
		networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace}))
}

// ValidateUpdate checks a changed class, whose controller stays.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *networkingv1.IngressClass) field.ErrorList {
	errs := apivalidation.ValidateImmutableField(obj.Spec.Controller, old.Spec.Controller, specPath.Child("controller"))
	return append(errs, k.Validate(ctx, obj)...)
}

// Columns are those of `kubectl get ingressclasses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Controller", "Controller that is responsible for handling this class"),
		table.Text("Parameters", "A reference to a resource with additional parameters"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *networkingv1.IngressClass) ([]any, error) {
	parameters := table.None
	if p := obj.Spec.Parameters; p != nil {
		parameters = p.Kind
		if p.APIGroup != nil {
			parameters += "." + *p.APIGroup
		}
		parameters += "/" + p.Name
	}
	return []any{obj.Name, obj.Spec.Controller, parameters, table.Since(obj.CreationTimestamp)}, nil
}
