// Package service declares core/v1 Service. Besides what every kind has, a Service is given addresses and node ports
// (allocate.go), and several of its fields depend on each other in ways that old clients do not know (linked.go).
package service

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Service](resource.Declaration{
		GVK:        corev1.SchemeGroupVersion.WithKind("Service"),
		Plural:     "services",
		ShortNames: []string{"svc"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		// Clients that delete a Service get it back, to read what it had.
		ReturnDeleted:  true,
		Subresources:   Subresources(),
		CreateOnUpdate: true,
	}, func() runtime.Object { return &corev1.ServiceList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.Service]       = kind{}
	_ resource.UpdatePreparer[*corev1.Service]  = kind{}
	_ resource.Validator[*corev1.Service]       = kind{}
	_ resource.UpdateValidator[*corev1.Service] = kind{}
	_ resource.StatusValidator[*corev1.Service] = kind{}
	_ resource.NameValidator                    = kind{}
	_ resource.Warner[*corev1.Service]          = kind{}
	_ resource.Selectable[*corev1.Service]      = kind{}
	_ resource.Printer[*corev1.Service]         = kind{}
	_ resource.Allocator[*corev1.Service]       = kind{}
	_ resource.Restorer[*corev1.Service]        = kind{}
)

// ValidateName takes DNS labels: the name is part of host names.
func (kind) ValidateName(name string, prefix bool) []string {
	return apivalidation.NameIsDNSLabel(name, prefix)
}

// PrepareForUpdate drops what a change of type leaves behind.
func (kind) PrepareForUpdate(_ context.Context, obj, old *corev1.Service) { dropLeftovers(obj, old) }

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *corev1.Service) fields.Set {
	return fields.Set{"spec.clusterIP": obj.Spec.ClusterIP, "spec.type": string(obj.Spec.Type)}
}

// Columns are those of `kubectl get services`.
func (kind) Columns() []metav1.TableColumnDefinition {
	doc := corev1.ServiceSpec{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Type", doc["type"]),
		table.Text("Cluster-IP", doc["clusterIP"]),
		table.Text("External-IP", doc["externalIPs"]),
		table.Text("Port(s)", doc["ports"]),
		table.Age(),
		table.Wide(table.Text("Selector", doc["selector"])),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.Service) ([]any, error) {
	internal := table.None
	if len(obj.Spec.ClusterIPs) > 0 {
		internal = obj.Spec.ClusterIPs[0]
	}
	return []any{
		obj.Name, string(obj.Spec.Type), internal, external(obj), ports(obj.Spec.Ports),
		table.Since(obj.CreationTimestamp), table.Pairs(obj.Spec.Selector),
	}, nil
}

// external is the address at which the Service is reached from outside.
func external(obj *corev1.Service) string {
	switch obj.Spec.Type {
	case corev1.ServiceTypeClusterIP, corev1.ServiceTypeNodePort:
		return table.OrNone(strings.Join(obj.Spec.ExternalIPs, ","))
	case corev1.ServiceTypeExternalName:
		return obj.Spec.ExternalName
	case corev1.ServiceTypeLoadBalancer:
		var addresses []string
		for _, in := range obj.Status.LoadBalancer.Ingress {
			if in.IP != "" {
				addresses = append(addresses, in.IP)
			} else if in.Hostname != "" {
				addresses = append(addresses, in.Hostname)
			}
		}
		slices.Sort(addresses)
		addresses = append(slices.Compact(addresses), obj.Spec.ExternalIPs...)
		if len(addresses) == 0 {
			return "<pending>"
		}
		return strings.Join(addresses, ",")
	}
	return table.Unknown
}

func ports(list []corev1.ServicePort) string {
	pieces := make([]string, len(list))
	for i, p := range list {
		pieces[i] = fmt.Sprintf("%d/%s", p.Port, p.Protocol)
		if p.NodePort > 0 {
			pieces[i] = fmt.Sprintf("%d:%d/%s", p.Port, p.NodePort, p.Protocol)
		}
	}
	return table.OrNone(strings.Join(pieces, ","))
}
