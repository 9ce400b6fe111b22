// Package certificatesigningrequest declares certificates.k8s.io/v1 CertificateSigningRequest. Who asked is written down
// by the server and never changes; whether to grant it is said through the approval subresource, and the certificate
// comes through status.
package certificatesigningrequest

import (
	"context"
	"slices"
	"strings"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/duration"
	"k8s.io/apiserver/pkg/endpoints/request"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[certificatesv1.CertificateSigningRequest](resource.Declaration{
		GVK:          certificatesv1.SchemeGroupVersion.WithKind("CertificateSigningRequest"),
		Plural:       "certificatesigningrequests",
		ShortNames:   []string{"csr"},
		Status:       true,
		Subresources: []resource.Subresource{{Name: "approval", Build: newApproval}},
	}, func() runtime.Object { return &certificatesv1.CertificateSigningRequestList{} }, kind{})
}

type kind struct{}

// csr is short for the Go type.
type csr = certificatesv1.CertificateSigningRequest

var (
	_ resource.CreatePreparer[*csr]  = kind{}
	_ resource.UpdatePreparer[*csr]  = kind{}
	_ resource.StatusPreparer[*csr]  = kind{}
	_ resource.Validator[*csr]       = kind{}
	_ resource.UpdateValidator[*csr] = kind{}
	_ resource.StatusValidator[*csr] = kind{}
	_ resource.NameValidator         = kind{}
	_ resource.Selectable[*csr]      = kind{}
	_ resource.Printer[*csr]         = kind{}
)

// PrepareForCreate writes down who asks; what a client says about that counts for nothing.
func (kind) PrepareForCreate(ctx context.Context, obj *csr) {
	s := &obj.Spec
	s.Username, s.UID, s.Groups, s.Extra = "", "", nil, nil
	if u, ok := request.UserFrom(ctx); ok {
		s.Username, s.UID, s.Groups = u.GetName(), u.GetUID(), slices.Clone(u.GetGroups())
		if extra := u.GetExtra(); len(extra) > 0 {
			s.Extra = map[string]certificatesv1.ExtraValue{}
			for k, v := range extra {
				s.Extra[k] = certificatesv1.ExtraValue(v)
			}
		}
	}
	obj.Status = certificatesv1.CertificateSigningRequestStatus{}
}

// PrepareForUpdate leaves all but metadata as it was.
func (kind) PrepareForUpdate(_ context.Context, obj, old *csr) {
	obj.Spec, obj.Status = old.Spec, old.Status
}

// PrepareForStatusUpdate keeps what was decided: approval and denial come through their own subresource.
func (kind) PrepareForStatusUpdate(_ context.Context, obj, old *csr) {
	obj.Spec = old.Spec
	kept := slices.DeleteFunc(slices.Clone(old.Status.Conditions), func(c condition) bool { return !decision(c.Type) })
	rest := slices.DeleteFunc(slices.Clone(obj.Status.Conditions), func(c condition) bool { return decision(c.Type) })
	obj.Status.Conditions = append(kept, rest...)
	stamp(obj.Status.Conditions, old.Status.Conditions)
}

type condition = certificatesv1.CertificateSigningRequestCondition

func decision(t certificatesv1.RequestConditionType) bool {
	return t == certificatesv1.CertificateApproved || t == certificatesv1.CertificateDenied
}

// stamp gives the conditions the times that their writers left out.
func stamp(list, old []condition) {
	now := metav1.Now()
	for i := range list {
		c := &list[i]
		if c.LastUpdateTime.IsZero() {
			c.LastUpdateTime = now
		}
		if !c.LastTransitionTime.IsZero() {
			continue
		}
		c.LastTransitionTime = now
		for _, o := range old {
			if o.Type == c.Type && o.Status == c.Status {
				c.LastTransitionTime = o.LastTransitionTime
			}
		}
	}
}

// ValidateName takes every name that fits into a path: clients choose their own.
func (kind) ValidateName(string, bool) []string { return nil }

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *csr) fields.Set {
	return fields.Set{"spec.signerName": obj.Spec.SignerName}
}

// Columns are those of `kubectl get csr`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := certificatesv1.CertificateSigningRequestSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Age(),
		table.Text("SignerName", doc["signerName"]),
		table.Text("Requestor", doc["request"]),
		table.Text("RequestedDuration", doc["expirationSeconds"]),
		table.Text("Condition", certificatesv1.CertificateSigningRequestStatus{}.SwaggerDoc()["conditions"]),
	}
}

// Row is one line of the table.
func (kind) Row(obj *csr) ([]any, error) {
	life := "<none>"
	if s := obj.Spec.ExpirationSeconds; s != nil {
		life = duration.HumanDuration(time.Duration(*s) * time.Second)
	}
	return []any{obj.Name, table.Since(obj.CreationTimestamp), obj.Spec.SignerName, obj.Spec.Username, life, summary(obj)}, nil
}

// summary is the conditions in one word each.
func summary(obj *csr) string {
	has := func(t certificatesv1.RequestConditionType) bool {
		return slices.ContainsFunc(obj.Status.Conditions, func(c condition) bool { return c.Type == t })
	}
	var words []string
	switch {
	case has(certificatesv1.CertificateDenied):
		words = append(words, "Denied")
	case has(certificatesv1.CertificateApproved):
		words = append(words, "Approved")
	default:
		words = append(words, "Pending")
	}
	if has(certificatesv1.CertificateFailed) {
		words = append(words, "Failed")
	}
	if len(obj.Status.Certificate) > 0 {
		words = append(words, "Issued")
	}
	return strings.Join(words, ",")
}
