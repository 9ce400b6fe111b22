// Package podcertificaterequest declares certificates.k8s.io/v1 PodCertificateRequest: a kubelet asks a signer for a
// certificate for one of its Pods (KEP-4317). What is asked never changes; the signer answers through status, once.
package podcertificaterequest

import (
	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[pcr](resource.Declaration{
		GVK:             certificatesv1.SchemeGroupVersion.WithKind("PodCertificateRequest"),
		Plural:          "podcertificaterequests",
		Namespaced:      true,
		Status:          true,
		StatusAlone:     true,
		VersionedUpdate: true,
	}, func() runtime.Object { return &certificatesv1.PodCertificateRequestList{} }, kind{})
}

type kind struct{}

// pcr is short for the Go type.
type pcr = certificatesv1.PodCertificateRequest

var (
	_ resource.Defaulter[*pcr]       = kind{}
	_ resource.Validator[*pcr]       = kind{}
	_ resource.UpdateValidator[*pcr] = kind{}
	_ resource.StatusValidator[*pcr] = kind{}
	_ resource.Selectable[*pcr]      = kind{}
	_ resource.Printer[*pcr]         = kind{}
)

// Default gives a request that says nothing of it a day.
func (kind) Default(obj *pcr) {
	if obj.Spec.MaxExpirationSeconds == nil {
		obj.Spec.MaxExpirationSeconds = ptr.To[int32](defaultSeconds)
	}
}

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *pcr) fields.Set {
	return fields.Set{"spec.signerName": obj.Spec.SignerName, "spec.podName": obj.Spec.PodName, "spec.nodeName": string(obj.Spec.NodeName)}
}

// Columns are those of `kubectl get podcertificaterequests`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := certificatesv1.PodCertificateRequestSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("PodName", doc["podName"]),
		table.Text("ServiceAccountName", doc["serviceAccountName"]),
		table.Text("NodeName", doc["nodeName"]),
		table.Text("SignerName", doc["signerName"]),
		table.Text("State", "Is the request Issued, Denied, Failed, or Pending?"),
	}
}

// Row is one line of the table.
func (kind) Row(obj *pcr) ([]any, error) {
	state := "Pending"
	if c := outcome(obj); c != nil {
		state = c.Type
	}
	s := &obj.Spec
	return []any{obj.Name, s.PodName, s.ServiceAccountName, string(s.NodeName), s.SignerName, state}, nil
}

// outcome returns the condition that ends a request; nil while it is pending.
func outcome(obj *pcr) *metav1.Condition {
	for i := range obj.Status.Conditions {
		if c := &obj.Status.Conditions[i]; final(c.Type) {
			return c
		}
	}
	return nil
}

func final(conditionType string) bool {
	return conditionType == certificatesv1.PodCertificateRequestConditionTypeIssued ||
		conditionType == certificatesv1.PodCertificateRequestConditionTypeDenied ||
		conditionType == certificatesv1.PodCertificateRequestConditionTypeFailed
}
