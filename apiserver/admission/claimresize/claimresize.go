// Package claimresize lets a claim grow only where its class says that its volumes can.
package claimresize

import (
	"context"
	"errors"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/admission"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"
)

// Plugin is the admission plugin PersistentVolumeClaimResize.
type Plugin struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
}

var _ admission.ValidationInterface = &Plugin{}

// New makes the plugin.
func New(classes storagelisters.StorageClassLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Update), classes}
}

//lint:ignore ST1005 clients know these words
var errNotBound = errors.New("Only bound persistent volume claims can be expanded")

// Validate refuses what cannot grow.
func (p *Plugin) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" || a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") {
		return nil
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	old, oldOK := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok || !oldOK {
		return apierrors.NewBadRequest("resource was marked with kind PersistentVolumeClaim but was unable to be converted")
	}
	size, had := claim.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage]
	if size.Cmp(had) <= 0 {
		return nil
	}
	if old.Status.Phase != corev1.ClaimBound {
		return admission.NewForbidden(a, errNotBound)
	}
	name := storage.GetPersistentVolumeClaimClass(claim)
	if name != "" && name == storage.GetPersistentVolumeClaimClass(old) {
		switch class, err := p.classes.Get(name); {
		case err == nil && ptr.Deref(class.AllowVolumeExpansion, false):
			return nil
		case err != nil && !apierrors.IsNotFound(err):
			return admission.NewForbidden(a, err)
		}
	}
	return admission.NewForbidden(a, errors.New("only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"))
}
