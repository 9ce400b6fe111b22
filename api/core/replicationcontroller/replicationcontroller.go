// Package replicationcontroller declares core/v1 ReplicationController, which ReplicaSet has replaced.
package replicationcontroller

import (
	"context"
	"maps"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
	v "github.com/peapod/peapod/api/validation"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.ReplicationController](resource.Declaration{
		GVK:        corev1.SchemeGroupVersion.WithKind("ReplicationController"),
		Plural:     "replicationcontrollers",
		ShortNames: []string{"rc"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &corev1.ReplicationControllerList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.ReplicationController]       = kind{}
	_ resource.CreatePreparer[*corev1.ReplicationController]  = kind{}
	_ resource.UpdatePreparer[*corev1.ReplicationController]  = kind{}
	_ resource.Validator[*corev1.ReplicationController]       = kind{}
	_ resource.UpdateValidator[*corev1.ReplicationController] = kind{}
	_ resource.StatusValidator[*corev1.ReplicationController] = kind{}
	_ resource.Warner[*corev1.ReplicationController]          = kind{}
	_ resource.Selectable[*corev1.ReplicationController]      = kind{}
	_ resource.Scaler[*corev1.ReplicationController]          = kind{}
	_ resource.GarbageCollected                               = kind{}
	_ resource.Printer[*corev1.ReplicationController]         = kind{}
)

var specPath = field.NewPath("spec")

// Default takes the selector and the object's own labels from the template where they are not given.
func (kind) Default(obj *corev1.ReplicationController) {
	if obj.Spec.Replicas == nil {
		obj.Spec.Replicas = ptr.To(workload.Replicas(nil))
	}
	t := obj.Spec.Template
	if t == nil {
		return
	}
	podspec.DefaultTemplate(t)
	if len(obj.Spec.Selector) == 0 {
		obj.Spec.Selector = maps.Clone(t.Labels)
	}
	if len(obj.Labels) == 0 {
		obj.Labels = maps.Clone(t.Labels)
	}
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *corev1.ReplicationController) {
	if obj.Spec.Template != nil {
		podspec.DropDisabledTemplateFields(obj.Spec.Template, nil)
	}
}

// PrepareForUpdate drops what is not enabled and was not there.
func (kind) PrepareForUpdate(_ context.Context, obj, old *corev1.ReplicationController) {
	if obj.Spec.Template != nil {
		podspec.DropDisabledTemplateFields(obj.Spec.Template, old.Spec.Template)
	}
}

// DefaultGarbageCollectionPolicy leaves the Pods alone, as ever.
func (kind) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	return rest.OrphanDependents
}

// Validate checks a new ReplicationController.
func (kind) Validate(_ context.Context, obj *corev1.ReplicationController) field.ErrorList {
	return validateSpec(&obj.Spec, nil)
}

// ValidateUpdate checks a changed one; all of it may change.
func (kind) ValidateUpdate(_ context.Context, obj, old *corev1.ReplicationController) field.ErrorList {
	return validateSpec(&obj.Spec, old.Spec.Template)
}

func validateSpec(spec *corev1.ReplicationControllerSpec, old *corev1.PodTemplateSpec) field.ErrorList {
	errs := v.NonNegativeInteger(int64(spec.MinReadySeconds), specPath.Child("minReadySeconds"))
	selector := labels.Set(spec.Selector).AsSelector()
	if selector.Empty() {
		errs = append(errs, field.Required(specPath.Child("selector"), ""))
	}
	errs = append(errs, workload.NonNegative(spec.Replicas, specPath.Child("replicas"))...)
	path := specPath.Child("template")
	if spec.Template == nil {
		return append(errs, field.Required(path, ""))
	}
	errs = append(errs, workload.Matches(spec.Template, selector, path)...)
	errs = append(errs, podspec.ValidateTemplate(spec.Template, old, path)...)
	return append(errs, workload.RunsForEver(spec.Template, "ReplicationController", path)...)
}

// ValidateStatusUpdate checks that the numbers can be.
func (kind) ValidateStatusUpdate(_ context.Context, obj, _ *corev1.ReplicationController) field.ErrorList {
	s, path := &obj.Status, field.NewPath("status")
	labeled := workload.Count{Name: "fullyLabeledReplicas", Value: int64(s.FullyLabeledReplicas)}
	ready := workload.Count{Name: "readyReplicas", Value: int64(s.ReadyReplicas)}
	available := workload.Count{Name: "availableReplicas", Value: int64(s.AvailableReplicas)}
	errs := workload.Counts(path, workload.Count{Name: "replicas", Value: int64(s.Replicas)}, labeled, ready, available,
		workload.Count{Name: "observedGeneration", Value: s.ObservedGeneration})
	errs = append(errs, workload.AtMost(s.Replicas, "cannot be greater than status.replicas", path, labeled, ready, available)...)
	return append(errs, workload.AtMost(s.ReadyReplicas, "cannot be greater than readyReplicas", path, available)...)
}

// Warnings warns of a new name and of a new or changed template.
func (kind) Warnings(_ context.Context, obj, old *corev1.ReplicationController) []string {
	if obj.Spec.Template == nil || old != nil && old.Generation == obj.Generation {
		return nil
	}
	list := workload.TemplateWarnings(obj.Spec.Template, specPath.Child("template"))
	if old != nil {
		return list
	}
	return append(workload.NameWarnings(obj.Name), list...)
}

// SelectableFields offers the number of Pods there are.
func (kind) SelectableFields(obj *corev1.ReplicationController) fields.Set {
	return fields.Set{"status.replicas": strconv.Itoa(int(obj.Status.Replicas))}
}

// Scale implements resource.Scaler.
func (kind) Scale(obj *corev1.ReplicationController) (int32, int32, string, error) {
	return workload.Replicas(obj.Spec.Replicas), obj.Status.Replicas, labels.Set(obj.Spec.Selector).AsSelector().String(), nil
}

// SetReplicas implements resource.Scaler.
func (kind) SetReplicas(obj *corev1.ReplicationController, n int32) { obj.Spec.Replicas = &n }

// Columns are those of `kubectl get replicationcontrollers`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := corev1.ReplicationControllerSpec{}.SwaggerDoc(), corev1.ReplicationControllerStatus{}.SwaggerDoc()
	return workload.Columns([]metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Desired", spec["replicas"]),
		table.Integer("Current", status["replicas"]),
		table.Integer("Ready", status["readyReplicas"]),
		table.Age(),
	}, workload.ContainerColumns(), []metav1.TableColumnDefinition{
		table.Wide(table.Text("Selector", spec["selector"])),
	})
}

// Row is one line of the table.
func (kind) Row(obj *corev1.ReplicationController) ([]any, error) {
	t := obj.Spec.Template
	if t == nil {
		t = &corev1.PodTemplateSpec{}
	}
	names, images := workload.Containers(t)
	return []any{
		obj.Name, int64(workload.Replicas(obj.Spec.Replicas)), int64(obj.Status.Replicas), int64(obj.Status.ReadyReplicas),
		table.Since(obj.CreationTimestamp), names, images, table.Pairs(obj.Spec.Selector),
	}, nil
}
