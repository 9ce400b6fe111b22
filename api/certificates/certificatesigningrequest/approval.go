package certificatesigningrequest

import (
	"context"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	genericregistry "k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"github.com/peapod/peapod/api/resource"
)

// approval is the subresource through which a request is approved or denied.
type approval struct{ store *genericregistry.Store }

var (
	_ rest.Patcher             = &approval{}
	_ rest.ResetFieldsStrategy = &approval{}
)

func newApproval(parent resource.Parent, _ resource.Env) rest.Storage {
	store := *parent.Main
	store.UpdateStrategy = approvalStrategy{parent.Main.UpdateStrategy}
	return &approval{store: &store}
}

// New returns an empty request.
func (*approval) New() runtime.Object { return &csr{} }

// Destroy does nothing: the store belongs to the kind's own storage.
func (*approval) Destroy() {}

// Get returns the request.
func (a *approval) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return a.store.Get(ctx, name, options)
}

// Update replaces the conditions of an existing request.
func (a *approval) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc,
	update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return a.store.Update(ctx, name, info, create, update, false, options)
}

// GetResetFields names the fields that the subresource does not own.
func (*approval) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{"certificates.k8s.io/v1": fieldpath.NewSet(
		fieldpath.MakePathOrDie("spec"), fieldpath.MakePathOrDie("status", "certificate"))}
}

// approvalStrategy is the kind's strategy but for what it lets through: conditions.
type approvalStrategy struct{ rest.RESTUpdateStrategy }

func (approvalStrategy) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	now, was := obj.(*csr), old.(*csr)
	conditions := now.Status.Conditions
	now.Spec, now.Status = was.Spec, was.Status
	now.Status.Conditions = conditions
	stamp(conditions, was.Status.Conditions)
}

func (approvalStrategy) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return validateChange(obj.(*csr), old.(*csr), certificatesv1.CertificateApproved, certificatesv1.CertificateDenied)
}

func (approvalStrategy) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}
