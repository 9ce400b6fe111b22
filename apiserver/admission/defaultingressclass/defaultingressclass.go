// Package defaultingressclass gives an Ingress that names no class the cluster's default one.
package defaultingressclass

import (
	"context"
	"fmt"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
)

// annotation is how Ingresses named their class before there was a field.
const annotation = "kubernetes.io/ingress.class"

// Plugin is the admission plugin DefaultIngressClass.
type Plugin struct {
	*admission.Handler
	classes networkinglisters.IngressClassLister
}

var _ admission.MutationInterface = &Plugin{}

// New makes the plugin.
func New(classes networkinglisters.IngressClassLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create), classes}
}

// Admit fills in the class of a new Ingress. Where there is no default class, it has none.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" || a.GetResource().GroupResource() != networkingv1.Resource("ingresses") {
		return nil
	}
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok {
		return apierrors.NewBadRequest("Resource was marked with kind Ingress but was unable to be converted")
	}
	if _, old := ingress.Annotations[annotation]; old || ingress.Spec.IngressClassName != nil {
		return nil
	}
	class, err := p.defaultClass()
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if class != nil {
		ingress.Spec.IngressClassName = &class.Name
	}
	return nil
}

// defaultClass returns the class that is marked as the default; the newest of several.
func (p *Plugin) defaultClass() (*networkingv1.IngressClass, error) {
	list, err := p.classes.List(labels.Everything())
	if err != nil {
		return nil, fmt.Errorf("list ingress classes: %w", err)
	}
	var found *networkingv1.IngressClass
	for _, c := range list {
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true" {
			continue
		}
		if found == nil || newer(c, found) {
			found = c
		}
	}
	return found, nil
}

func newer(a, b *networkingv1.IngressClass) bool {
	if d := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); d != 0 {
		return d > 0
	}
	return strings.Compare(a.Name, b.Name) < 0
}
