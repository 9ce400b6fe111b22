// Package ingress declares networking.k8s.io/v1 Ingress.
package ingress

import (
	"context"
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[networkingv1.Ingress](resource.Declaration{
		GVK:        networkingv1.SchemeGroupVersion.WithKind("Ingress"),
		Plural:     "ingresses",
		ShortNames: []string{"ing"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &networkingv1.IngressList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*networkingv1.Ingress]       = kind{}
	_ resource.UpdateValidator[*networkingv1.Ingress] = kind{}
	_ resource.StatusValidator[*networkingv1.Ingress] = kind{}
	_ resource.Warner[*networkingv1.Ingress]          = kind{}
	_ resource.Printer[*networkingv1.Ingress]         = kind{}
)

// classAnnotation chose the class before there was a field.
const classAnnotation = "kubernetes.io/ingress.class"

// Warnings warns, once, of the annotation of old.
func (kind) Warnings(_ context.Context, obj, old *networkingv1.Ingress) []string {
	if _, found := obj.Annotations[classAnnotation]; found && old == nil {
		return []string{fmt.Sprintf("annotation %q is deprecated, please use 'spec.ingressClassName' instead", classAnnotation)}
	}
	return nil
}

// Columns are those of `kubectl get ingresses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Class", "The name of the IngressClass resource that should be used for additional configuration"),
		table.Text("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
		table.Text("Address", "Address is a list containing ingress points for the load-balancer"),
		table.Text("Ports", "Ports of TLS configurations that open"),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *networkingv1.Ingress) ([]any, error) {
	ports := "80"
	if len(obj.Spec.TLS) > 0 {
		ports = "80, 443"
	}
	return []any{
		obj.Name, table.OrNone(ptr.Deref(obj.Spec.IngressClassName, "")), hosts(obj.Spec.Rules),
		addresses(obj.Status.LoadBalancer.Ingress), ports, table.Since(obj.CreationTimestamp),
	}, nil
}

// hosts are the names that the first rules are for. Any name is meant where none is given.
func hosts(rules []networkingv1.IngressRule) string {
	const shown = 3
	var list []string
	for _, rule := range rules {
		if rule.Host != "" {
			list = append(list, rule.Host)
		}
	}
	switch n := len(list); {
	case n == 0:
		return "*"
	case n > shown:
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ","), n-shown)
	}
	return strings.Join(list, ",")
}

func addresses(list []networkingv1.IngressLoadBalancerIngress) string {
	set := sets.New[string]()
	for _, in := range list {
		if in.IP != "" {
			set.Insert(in.IP)
		} else if in.Hostname != "" {
			set.Insert(in.Hostname)
		}
	}
	return strings.Join(sets.List(set), ",")
}
