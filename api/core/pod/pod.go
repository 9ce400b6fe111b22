// Package pod is the Pod kind: what a Pod is called, what is filled in for its user, which Pods and which changes to them
// are accepted, and how `kubectl get` shows them. What Pods share with the templates of other kinds is in package podspec.
package pod

import (
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/kubectl/pkg/util/qos"

	"github.com/peapod/peapod/api/resource"
)

// kind implements the behaviour of Pods. It has no state.
type kind struct{}

var (
	_ resource.Defaulter[*corev1.Pod]       = kind{}
	_ resource.CreatePreparer[*corev1.Pod]  = kind{}
	_ resource.UpdatePreparer[*corev1.Pod]  = kind{}
	_ resource.StatusPreparer[*corev1.Pod]  = kind{}
	_ resource.Validator[*corev1.Pod]       = kind{}
	_ resource.UpdateValidator[*corev1.Pod] = kind{}
	_ resource.StatusValidator[*corev1.Pod] = kind{}
	_ resource.Selectable[*corev1.Pod]      = kind{}
	_ resource.GracefulDeleter[*corev1.Pod] = kind{}
	_ resource.Printer[*corev1.Pod]         = kind{}
	_ resource.Warner[*corev1.Pod]          = kind{}
)

// Declaration declares core/v1 Pod.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.Pod](resource.Declaration{
		GVK:           corev1.SchemeGroupVersion.WithKind("Pod"),
		Plural:        "pods",
		ShortNames:    []string{"po"},
		Categories:    []string{"all"},
		Namespaced:    true,
		Status:        true,
		Generation:    true,
		ReturnDeleted: true,
		Subresources:  Subresources(),
	}, func() runtime.Object { return &corev1.PodList{} }, kind{})
}

// QOSClass returns the quality-of-service class that the spec of p amounts to, whatever its status says.
func QOSClass(p *corev1.Pod) corev1.PodQOSClass { return qos.ComputePodQOS(p) }

// SelectableFields implements resource.Selectable.
func (kind) SelectableFields(p *corev1.Pod) fields.Set {
	return fields.Set{
		"spec.nodeName":            p.Spec.NodeName,
		"spec.restartPolicy":       string(p.Spec.RestartPolicy),
		"spec.schedulerName":       p.Spec.SchedulerName,
		"spec.serviceAccountName":  p.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(p.Spec.HostNetwork),
		"status.phase":             string(p.Status.Phase),
		"status.podIP":             firstIP(p),
		"status.nominatedNodeName": p.Status.NominatedNodeName,
	}
}
