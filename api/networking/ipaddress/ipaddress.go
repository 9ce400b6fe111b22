// Package ipaddress declares networking.k8s.io/v1 IPAddress: that the address which is its name is taken, and by what.
package ipaddress

import (
	"context"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[networkingv1.IPAddress](resource.Declaration{
		GVK:        networkingv1.SchemeGroupVersion.WithKind("IPAddress"),
		Plural:     "ipaddresses",
		ShortNames: []string{"ip"},
	}, func() runtime.Object { return &networkingv1.IPAddressList{} }, kind{})
}

type kind struct{}

var (
	_ resource.NameValidator                            = kind{}
	_ resource.Validator[*networkingv1.IPAddress]       = kind{}
	_ resource.UpdateValidator[*networkingv1.IPAddress] = kind{}
	_ resource.Printer[*networkingv1.IPAddress]         = kind{}
)

var parentPath = field.NewPath("spec", "parentRef")

// ValidateName takes addresses in their canonical form.
func (kind) ValidateName(name string, _ bool) []string {
	var msgs []string
	for _, err := range validation.IsValidIP(nil, name) {
		msgs = append(msgs, err.Detail)
	}
	return msgs
}

// Validate checks what the address belongs to. The group may be empty, as that of Services is.
func (kind) Validate(_ context.Context, obj *networkingv1.IPAddress) field.ErrorList {
	p := obj.Spec.ParentRef
	if p == nil {
		return field.ErrorList{field.Required(parentPath, "")}
	}
	var errs field.ErrorList
	if p.Group != "" {
		errs = append(errs, v.DNSSubdomain(p.Group, parentPath.Child("group"))...)
	}
	for _, part := range []struct {
		name, value string
		needed      bool
	}{{"resource", p.Resource, true}, {"name", p.Name, true}, {"namespace", p.Namespace, false}} {
		path := parentPath.Child(part.name)
		switch {
		case part.value != "":
			errs = append(errs, v.Messages(content.IsPathSegmentName(part.value), part.value, path)...)
		case part.needed:
			errs = append(errs, field.Required(path, ""))
		}
	}
	return errs
}

// ValidateUpdate checks a changed IPAddress, which belongs to what it did.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *networkingv1.IPAddress) field.ErrorList {
	return append(k.Validate(ctx, obj), apivalidation.ValidateImmutableField(obj.Spec.ParentRef, old.Spec.ParentRef, parentPath)...)
}

// Columns are those of `kubectl get ipaddresses`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]),
	}
}

// Row is one line of the table.
func (kind) Row(obj *networkingv1.IPAddress) ([]any, error) {
	p := obj.Spec.ParentRef
	if p == nil {
		return []any{obj.Name, table.None}, nil
	}
	parent := strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())
	if p.Namespace != "" {
		parent += "/" + p.Namespace
	}
	return []any{obj.Name, parent + "/" + p.Name}, nil
}
