// Package servicecidr declares networking.k8s.io/v1 ServiceCIDR: ranges that Services get cluster IPs from.
package servicecidr

import (
	"context"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[networkingv1.ServiceCIDR](resource.Declaration{
		GVK:         networkingv1.SchemeGroupVersion.WithKind("ServiceCIDR"),
		Plural:      "servicecidrs",
		Status:      true,
		StatusAlone: true,
	}, func() runtime.Object { return &networkingv1.ServiceCIDRList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Validator[*networkingv1.ServiceCIDR]       = kind{}
	_ resource.UpdateValidator[*networkingv1.ServiceCIDR] = kind{}
	_ resource.Printer[*networkingv1.ServiceCIDR]         = kind{}
)

var cidrsPath = field.NewPath("spec", "cidrs")

// Validate checks a new ServiceCIDR: one range, or one of each family.
func (kind) Validate(_ context.Context, obj *networkingv1.ServiceCIDR) field.ErrorList {
	cidrs := obj.Spec.CIDRs
	switch len(cidrs) {
	case 0:
		return field.ErrorList{field.Required(cidrsPath, "at least one CIDR required")}
	case 1, 2:
	default:
		return field.ErrorList{field.Invalid(cidrsPath, obj.Spec, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, cidr := range cidrs {
		errs = append(errs, validation.IsValidCIDR(cidrsPath.Index(i), cidr)...)
	}
	if len(cidrs) == 2 {
		family := netutils.IPFamilyOfCIDRString(cidrs[0])
		if family != netutils.IPFamilyUnknown && family == netutils.IPFamilyOfCIDRString(cidrs[1]) {
			errs = append(errs, field.Invalid(cidrsPath, cidrs,
				"may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// ValidateUpdate checks a changed ServiceCIDR: its ranges stay, but one of the other family may join a single one.
func (k kind) ValidateUpdate(ctx context.Context, obj, old *networkingv1.ServiceCIDR) field.ErrorList {
	is, was := obj.Spec.CIDRs, old.Spec.CIDRs
	grows := len(was) == 1 && len(is) == 2
	if len(is) != len(was) && !grows {
		return field.ErrorList{field.Invalid(cidrsPath, is, apivalidation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range was {
		if is[i] != was[i] {
			errs = append(errs, field.Invalid(cidrsPath.Index(i), is[i], apivalidation.FieldImmutableErrorMsg))
		}
	}
	if grows {
		errs = append(errs, k.Validate(ctx, obj)...)
	}
	return errs
}

// Columns are those of `kubectl get servicecidrs`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *networkingv1.ServiceCIDR) ([]any, error) {
	return []any{obj.Name, strings.Join(obj.Spec.CIDRs, ","), table.Since(obj.CreationTimestamp)}, nil
}
