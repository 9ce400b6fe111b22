// Package endpointslice declares discovery.k8s.io/v1 EndpointSlice.
package endpointslice

import (
	"context"
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[discoveryv1.EndpointSlice](resource.Declaration{
		GVK:        discoveryv1.SchemeGroupVersion.WithKind("EndpointSlice"),
		Plural:     "endpointslices",
		Namespaced: true,
		Generation: true,
	}, func() runtime.Object { return &discoveryv1.EndpointSliceList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*discoveryv1.EndpointSlice]       = kind{}
	_ resource.CreatePreparer[*discoveryv1.EndpointSlice]  = kind{}
	_ resource.UpdatePreparer[*discoveryv1.EndpointSlice]  = kind{}
	_ resource.Validator[*discoveryv1.EndpointSlice]       = kind{}
	_ resource.UpdateValidator[*discoveryv1.EndpointSlice] = kind{}
	_ resource.Warner[*discoveryv1.EndpointSlice]          = kind{}
	_ resource.Printer[*discoveryv1.EndpointSlice]         = kind{}
)

// Default gives ports a name and a protocol.
func (kind) Default(obj *discoveryv1.EndpointSlice) {
	for i := range obj.Ports {
		p := &obj.Ports[i]
		if p.Name == nil {
			p.Name = ptr.To("")
		}
		if p.Protocol == nil {
			p.Protocol = ptr.To(corev1.ProtocolTCP)
		}
	}
}

// PrepareForCreate drops the topology of the version before v1, which new slices cannot have.
func (kind) PrepareForCreate(_ context.Context, obj *discoveryv1.EndpointSlice) { dropTopology(obj) }

// PrepareForUpdate raises the generation where anything but metadata has changed: there is no spec to go by.
func (kind) PrepareForUpdate(_ context.Context, obj, old *discoveryv1.EndpointSlice) {
	if !hasTopology(old) {
		dropTopology(obj)
	}
	a, b := *obj, *old
	a.ObjectMeta, a.TypeMeta = metav1.ObjectMeta{}, metav1.TypeMeta{}
	b.ObjectMeta, b.TypeMeta = metav1.ObjectMeta{}, metav1.TypeMeta{}
	obj.Generation = old.Generation
	if !equality.Semantic.DeepEqual(a, b) {
		obj.Generation++
	}
}

func hasTopology(obj *discoveryv1.EndpointSlice) bool {
	for _, e := range obj.Endpoints {
		if len(e.DeprecatedTopology) > 0 {
			return true
		}
	}
	return false
}

func dropTopology(obj *discoveryv1.EndpointSlice) {
	for i := range obj.Endpoints {
		obj.Endpoints[i].DeprecatedTopology = nil
	}
}

// Warnings tell of address types that are not used, and of addresses that are written in a doubtful way.
func (kind) Warnings(_ context.Context, obj, _ *discoveryv1.EndpointSlice) []string {
	if obj.AddressType == discoveryv1.AddressTypeFQDN {
		return []string{fmt.Sprintf("%s: FQDN endpoints are deprecated", field.NewPath("spec", "addressType"))}
	}
	var warnings []string
	for i, e := range obj.Endpoints {
		for j, address := range e.Addresses {
			path := field.NewPath("endpoints").Index(i).Child("addresses").Index(j)
			warnings = append(warnings, validation.GetWarningsForIP(path, address)...)
		}
	}
	return warnings
}

// Columns are those of `kubectl get endpointslices`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := discoveryv1.EndpointSlice{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("AddressType", doc["addressType"]),
		table.Text("Ports", doc["ports"]),
		table.Text("Endpoints", doc["endpoints"]),
		table.Age(),
	}
}

// Row is one line of the table.
func (kind) Row(obj *discoveryv1.EndpointSlice) ([]any, error) {
	var ports, addresses []string
	for _, p := range obj.Ports {
		switch {
		case p.Port != nil:
			ports = append(ports, strconv.Itoa(int(*p.Port)))
		case p.Name != nil:
			ports = append(ports, *p.Name)
		default:
			ports = append(ports, "*")
		}
	}
	for _, e := range obj.Endpoints {
		addresses = append(addresses, e.Addresses...)
	}
	return []any{obj.Name, string(obj.AddressType), few(ports), few(addresses), table.Since(obj.CreationTimestamp)}, nil
}

// few shows the first three of list and says how many more there are.
func few(list []string) string {
	const shown = 3
	if len(list) > shown {
		return fmt.Sprintf("%s + %d more...", strings.Join(list[:shown], ","), len(list)-shown)
	}
	if text := strings.Join(list, ","); text != "" {
		return text
	}
	return "<unset>"
}
