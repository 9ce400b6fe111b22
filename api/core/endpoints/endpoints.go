// Package endpoints declares core/v1 Endpoints, the deprecated predecessor of EndpointSlice.
package endpoints

import (
	"context"
	"fmt"
	"net"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	apivalidation "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Endpoints](resource.Declaration{
		GVK:            corev1.SchemeGroupVersion.WithKind("Endpoints"),
		Plural:         "endpoints",
		Singular:       "endpoints",
		ShortNames:     []string{"ep"},
		Namespaced:     true,
		CreateOnUpdate: true,
	}, func() runtime.Object { return &corev1.EndpointsList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.Endpoints]       = kind{}
	_ resource.Validator[*corev1.Endpoints]       = kind{}
	_ resource.UpdateValidator[*corev1.Endpoints] = kind{}
	_ resource.Warner[*corev1.Endpoints]          = kind{}
	_ resource.Printer[*corev1.Endpoints]         = kind{}
)

// Default makes TCP the protocol of ports that name none.
func (kind) Default(obj *corev1.Endpoints) {
	for i := range obj.Subsets {
		for j := range obj.Subsets[i].Ports {
			if p := &obj.Subsets[i].Ports[j]; p.Protocol == "" {
				p.Protocol = corev1.ProtocolTCP
			}
		}
	}
}

// Validate checks new Endpoints.
func (kind) Validate(_ context.Context, obj *corev1.Endpoints) field.ErrorList {
	return append(validateAnnotations(obj.Annotations), validateSubsets(obj.Subsets)...)
}

// ValidateUpdate tolerates subsets that were accepted under older rules, as long as they stay what they were.
func (kind) ValidateUpdate(_ context.Context, obj, old *corev1.Endpoints) field.ErrorList {
	errs := validateAnnotations(obj.Annotations)
	// Compared only on an error: there may be many addresses.
	if bad := validateSubsets(obj.Subsets); len(bad) > 0 && !equality.Semantic.DeepEqual(obj.Subsets, old.Subsets) {
		errs = append(errs, bad...)
	}
	return errs
}

// validateAnnotations checks the time at which the last change to a Pod or Service caused these endpoints.
func validateAnnotations(annotations map[string]string) field.ErrorList {
	value, ok := annotations[corev1.EndpointsLastChangeTriggerTime]
	if !ok {
		return nil
	}
	if _, err := time.Parse(time.RFC3339Nano, value); err != nil {
		path := field.NewPath("annotations").Child(corev1.EndpointsLastChangeTriggerTime)
		return field.ErrorList{field.Invalid(path, value, err.Error())}
	}
	return nil
}

func validateSubsets(subsets []corev1.EndpointSubset) field.ErrorList {
	var errs field.ErrorList
	for i := range subsets {
		s, path := &subsets[i], field.NewPath("subsets").Index(i)
		if len(s.Addresses) == 0 && len(s.NotReadyAddresses) == 0 {
			errs = append(errs, field.Required(path, "must specify `addresses` or `notReadyAddresses`"))
		}
		for j := range s.Addresses {
			errs = append(errs, validateAddress(&s.Addresses[j], path.Child("addresses").Index(j))...)
		}
		for j := range s.NotReadyAddresses {
			errs = append(errs, validateAddress(&s.NotReadyAddresses[j], path.Child("notReadyAddresses").Index(j))...)
		}
		for j := range s.Ports {
			errs = append(errs, validatePort(&s.Ports[j], len(s.Ports) > 1, path.Child("ports").Index(j))...)
		}
	}
	return errs
}

func validateAddress(a *corev1.EndpointAddress, path *field.Path) field.ErrorList {
	errs := validation.IsValidIPForLegacyField(path.Child("ip"), a.IP, true, nil)
	if a.Hostname != "" {
		errs = append(errs, apivalidation.DNSLabel(a.Hostname, path.Child("hostname"))...)
	}
	if a.NodeName != nil {
		errs = append(errs, apivalidation.DNSSubdomain(*a.NodeName, path.Child("nodeName"))...)
	}
	return append(errs, apivalidation.EndpointIP(a.IP, path.Child("ip"))...)
}

func validatePort(p *corev1.EndpointPort, named bool, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if p.Name != "" {
		errs = append(errs, apivalidation.DNSLabel(p.Name, path.Child("name"))...)
	} else if named {
		errs = append(errs, field.Required(path.Child("name"), ""))
	}
	errs = append(errs, apivalidation.PortNumber(p.Port, path.Child("port"))...)
	errs = append(errs, apivalidation.Enum(p.Protocol, path.Child("protocol"),
		corev1.ProtocolSCTP, corev1.ProtocolTCP, corev1.ProtocolUDP)...)
	if p.AppProtocol != nil {
		errs = append(errs, apivalidation.QualifiedName(*p.AppProtocol, path.Child("appProtocol"))...)
	}
	return errs
}

// Warnings send users to EndpointSlice and tell of addresses that are written in a doubtful way.
func (kind) Warnings(_ context.Context, obj, _ *corev1.Endpoints) []string {
	warnings := []string{"v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"}
	for i := range obj.Subsets {
		path := field.NewPath("subsets").Index(i)
		for j, a := range obj.Subsets[i].Addresses {
			warnings = append(warnings, validation.GetWarningsForIP(path.Child("addresses").Index(j).Child("ip"), a.IP)...)
		}
		for j, a := range obj.Subsets[i].NotReadyAddresses {
			warnings = append(warnings,
				validation.GetWarningsForIP(path.Child("notReadyAddresses").Index(j).Child("ip"), a.IP)...)
		}
	}
	return warnings
}

// Columns are those of `kubectl get endpoints`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Endpoints", corev1.Endpoints{}.SwaggerDoc()["subsets"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.Endpoints) ([]any, error) {
	return []any{obj.Name, summary(obj.Subsets), table.Since(obj.CreationTimestamp)}, nil
}

// summary lists the first few ready endpoints and says how many more there are.
func summary(subsets []corev1.EndpointSubset) string {
	const shown = 3
	if len(subsets) == 0 {
		return table.None
	}
	var list []string
	total := 0
	add := func(s string) {
		if total++; len(list) < shown {
			list = append(list, s)
		}
	}
	for _, s := range subsets {
		if len(s.Ports) == 0 {
			for _, a := range s.Addresses {
				add(a.IP)
			}
		}
		for _, p := range s.Ports {
			for _, a := range s.Addresses {
				add(net.JoinHostPort(a.IP, strconv.Itoa(int(p.Port))))
			}
		}
	}
	text := strings.Join(list, ",")
	if total > shown {
		text += fmt.Sprintf(" + %d more...", total-shown)
	}
	return text
}
