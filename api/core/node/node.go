// Package node declares core/v1 Node.
package node

import (
	"context"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"

	"github.com/peapod/peapod/api/quantity"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Node](resource.Declaration{
		GVK:            corev1.SchemeGroupVersion.WithKind("Node"),
		Plural:         "nodes",
		ShortNames:     []string{"no"},
		Status:         true,
		StatusOnCreate: true,
		Subresources:   Subresources(),
	}, func() runtime.Object { return &corev1.NodeList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.Node]       = kind{}
	_ resource.UpdatePreparer[*corev1.Node]  = kind{}
	_ resource.StatusPreparer[*corev1.Node]  = kind{}
	_ resource.Validator[*corev1.Node]       = kind{}
	_ resource.UpdateValidator[*corev1.Node] = kind{}
	_ resource.StatusValidator[*corev1.Node] = kind{}
	_ resource.Warner[*corev1.Node]          = kind{}
	_ resource.Selectable[*corev1.Node]      = kind{}
	_ resource.Printer[*corev1.Node]         = kind{}
)

// Default keeps podCIDR and podCIDRs in step and completes the status.
func (kind) Default(obj *corev1.Node) {
	spec := &obj.Spec
	switch {
	case spec.PodCIDR == "" && len(spec.PodCIDRs) > 0:
		spec.PodCIDR = spec.PodCIDRs[0]
	case spec.PodCIDR != "" && (len(spec.PodCIDRs) == 0 || spec.PodCIDRs[0] != spec.PodCIDR):
		// A client that knows only the singular field is right about it.
		spec.PodCIDRs = []string{spec.PodCIDR}
	}
	quantity.RoundUp(obj.Status.Capacity)
	quantity.RoundUp(obj.Status.Allocatable)
	if obj.Status.Allocatable == nil && obj.Status.Capacity != nil {
		obj.Status.Allocatable = obj.Status.Capacity.DeepCopy()
	}
}

// PrepareForUpdate drops the configuration source, which no node takes any more.
func (kind) PrepareForUpdate(_ context.Context, obj, old *corev1.Node) {
	if old.Spec.ConfigSource == nil {
		obj.Spec.ConfigSource = nil
	}
}

// PrepareForStatusUpdate drops the state of configuration sources as well.
func (kind) PrepareForStatusUpdate(_ context.Context, obj, old *corev1.Node) {
	if old.Status.Config == nil {
		obj.Status.Config = nil
	}
}

// SelectableFields are the fields that a field selector may name.
func (kind) SelectableFields(obj *corev1.Node) fields.Set {
	unschedulable := "false"
	if obj.Spec.Unschedulable {
		unschedulable = "true"
	}
	return fields.Set{"spec.unschedulable": unschedulable}
}

// Columns are those of `kubectl get nodes`.
func (kind) Columns() []metav1.TableColumnDefinition {
	status, info := corev1.NodeStatus{}.SwaggerDoc(), corev1.NodeSystemInfo{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Status", "The status of the node"),
		table.Text("Roles", "The roles of the node"),
		table.Age(),
		table.Text("Version", info["kubeletVersion"]),
		table.Wide(table.Text("Internal-IP", status["addresses"])),
		table.Wide(table.Text("External-IP", status["addresses"])),
		table.Wide(table.Text("OS-Image", info["osImage"])),
		table.Wide(table.Text("Kernel-Version", info["kernelVersion"])),
		table.Wide(table.Text("Container-Runtime", info["containerRuntimeVersion"])),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.Node) ([]any, error) {
	info := &obj.Status.NodeInfo
	return []any{
		obj.Name,
		readiness(obj),
		roles(obj.Labels),
		table.Since(obj.CreationTimestamp),
		info.KubeletVersion,
		address(obj, corev1.NodeInternalIP),
		address(obj, corev1.NodeExternalIP),
		table.OrUnknown(info.OSImage),
		table.OrUnknown(info.KernelVersion),
		table.OrUnknown(info.ContainerRuntimeVersion),
	}, nil
}

func readiness(obj *corev1.Node) string {
	s := "Unknown"
	for _, c := range obj.Status.Conditions {
		if c.Type != corev1.NodeReady {
			continue
		}
		s = "NotReady"
		if c.Status == corev1.ConditionTrue {
			s = "Ready"
		}
	}
	if obj.Spec.Unschedulable {
		s += ",SchedulingDisabled"
	}
	return s
}

// roles finds the roles that a node's labels give it, by either convention.
func roles(labels map[string]string) string {
	const prefix, single = "node-role.kubernetes.io/", "kubernetes.io/role"
	var found []string
	for k, v := range labels {
		if role, ok := strings.CutPrefix(k, prefix); ok && role != "" {
			found = append(found, role)
		} else if k == single && v != "" {
			found = append(found, v)
		}
	}
	slices.Sort(found)
	return table.OrNone(strings.Join(slices.Compact(found), ","))
}

func address(obj *corev1.Node, kind corev1.NodeAddressType) string {
	for _, a := range obj.Status.Addresses {
		if a.Type == kind {
			return a.Address
		}
	}
	return table.None
}
