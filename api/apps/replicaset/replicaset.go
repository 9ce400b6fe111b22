// Package replicaset declares apps/v1 ReplicaSet.
package replicaset

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[appsv1.ReplicaSet](resource.Declaration{
		GVK:        appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		Plural:     "replicasets",
		ShortNames: []string{"rs"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &appsv1.ReplicaSetList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*appsv1.ReplicaSet]       = kind{}
	_ resource.CreatePreparer[*appsv1.ReplicaSet]  = kind{}
	_ resource.UpdatePreparer[*appsv1.ReplicaSet]  = kind{}
	_ resource.Validator[*appsv1.ReplicaSet]       = kind{}
	_ resource.UpdateValidator[*appsv1.ReplicaSet] = kind{}
	_ resource.StatusValidator[*appsv1.ReplicaSet] = kind{}
	_ resource.Warner[*appsv1.ReplicaSet]          = kind{}
	_ resource.Selectable[*appsv1.ReplicaSet]      = kind{}
	_ resource.Scaler[*appsv1.ReplicaSet]          = kind{}
	_ resource.Printer[*appsv1.ReplicaSet]         = kind{}
)

// Default asks for one Pod where no number is given.
func (kind) Default(obj *appsv1.ReplicaSet) {
	if obj.Spec.Replicas == nil {
		obj.Spec.Replicas = ptr.To(workload.Replicas(nil))
	}
	podspec.DefaultTemplate(&obj.Spec.Template)
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *appsv1.ReplicaSet) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, nil)
}

// PrepareForUpdate drops what is not enabled and was not there.
func (kind) PrepareForUpdate(_ context.Context, obj, old *appsv1.ReplicaSet) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, &old.Spec.Template)
}

// Warnings warns of a new name and of a new or changed template.
func (kind) Warnings(_ context.Context, obj, old *appsv1.ReplicaSet) []string {
	if old != nil && old.Generation == obj.Generation {
		return nil
	}
	list := workload.TemplateWarnings(&obj.Spec.Template, specPath.Child("template"))
	if old != nil {
		return list
	}
	return append(workload.NameWarnings(obj.Name), list...)
}

// SelectableFields offers the number of Pods there are.
func (kind) SelectableFields(obj *appsv1.ReplicaSet) fields.Set {
	return fields.Set{"status.replicas": strconv.Itoa(int(obj.Status.Replicas))}
}

// Scale implements resource.Scaler.
func (kind) Scale(obj *appsv1.ReplicaSet) (int32, int32, string, error) {
	return workload.Scale(obj.Spec.Replicas, obj.Status.Replicas, obj.Spec.Selector)
}

// SetReplicas implements resource.Scaler.
func (kind) SetReplicas(obj *appsv1.ReplicaSet, n int32) { obj.Spec.Replicas = &n }

// Columns are those of `kubectl get replicasets`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := appsv1.ReplicaSetSpec{}.SwaggerDoc(), appsv1.ReplicaSetStatus{}.SwaggerDoc()
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
func (kind) Row(obj *appsv1.ReplicaSet) ([]any, error) {
	names, images := workload.Containers(&obj.Spec.Template)
	return []any{
		obj.Name, int64(workload.Replicas(obj.Spec.Replicas)), int64(obj.Status.Replicas), int64(obj.Status.ReadyReplicas),
		table.Since(obj.CreationTimestamp), names, images, metav1.FormatLabelSelector(obj.Spec.Selector),
	}, nil
}
