// Package denyserviceexternalips refuses external IPs of Services: whoever may make a Service could draw traffic for any address to it.
package denyserviceexternalips

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/admission"
)

// Name is the plugin's.
const Name = "DenyServiceExternalIPs"

// Plugin is the admission plugin.
type Plugin struct{ *admission.Handler }

var _ admission.ValidationInterface = Plugin{}

// New makes the plugin.
func New() Plugin { return Plugin{admission.NewHandler(admission.Create, admission.Update)} }

// Validate refuses addresses that the Service did not have before.
func (Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("services") || a.GetSubresource() != "" {
		return nil
	}
	now, ok := a.GetObject().(*corev1.Service)
	if !ok {
		//lint:ignore ST1005 upstream's text
		return apierrors.NewInternalError(fmt.Errorf("Expected Service resource, got: %v", a.GetKind()))
	}
	had := sets.New[string]()
	if old, ok := a.GetOldObject().(*corev1.Service); ok {
		had.Insert(old.Spec.ExternalIPs...)
	}
	if had.HasAll(now.Spec.ExternalIPs...) {
		return nil
	}
	//lint:ignore ST1005 upstream's text
	return admission.NewForbidden(a, errors.New("Use of external IPs is denied by admission control"))
}
