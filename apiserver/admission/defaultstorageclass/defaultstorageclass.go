// Package defaultstorageclass gives new claims that name no class the default one.
package defaultstorageclass

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	storage "k8s.io/component-helpers/storage/volume"

	"github.com/peapod/peapod/internal/storageclass"
)

// Plugin is the admission plugin DefaultStorageClass.
type Plugin struct {
	*admission.Handler
	classes storagelisters.StorageClassLister
}

var _ admission.MutationInterface = &Plugin{}

// New makes the plugin.
func New(classes storagelisters.StorageClassLister) *Plugin {
	return &Plugin{admission.NewHandler(admission.Create), classes}
}

// Admit fills in the class. Where there is no default the claim waits for one, or for a volume without a class.
func (p *Plugin) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetSubresource() != "" || a.GetResource().GroupResource() != corev1.Resource("persistentvolumeclaims") {
		return nil
	}
	claim, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return apierrors.NewBadRequest("resource was marked with kind PersistentVolumeClaim but was unable to be converted")
	}
	if storage.PersistentVolumeClaimHasClass(claim) {
		return nil
	}
	list, err := p.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if class := storageclass.Default(list); class != nil {
		claim.Spec.StorageClassName = &class.Name
	}
	return nil
}
