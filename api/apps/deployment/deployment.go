// Package deployment declares apps/v1 Deployment.
package deployment

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[appsv1.Deployment](resource.Declaration{
		GVK:        appsv1.SchemeGroupVersion.WithKind("Deployment"),
		Plural:     "deployments",
		ShortNames: []string{"deploy"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &appsv1.DeploymentList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*appsv1.Deployment]       = kind{}
	_ resource.CreatePreparer[*appsv1.Deployment]  = kind{}
	_ resource.UpdatePreparer[*appsv1.Deployment]  = kind{}
	_ resource.StatusPreparer[*appsv1.Deployment]  = kind{}
	_ resource.Validator[*appsv1.Deployment]       = kind{}
	_ resource.UpdateValidator[*appsv1.Deployment] = kind{}
	_ resource.StatusValidator[*appsv1.Deployment] = kind{}
	_ resource.Warner[*appsv1.Deployment]          = kind{}
	_ resource.Scaler[*appsv1.Deployment]          = kind{}
	_ resource.Printer[*appsv1.Deployment]         = kind{}
)

const (
	defaultShare    = "25%"
	defaultHistory  = 10
	defaultDeadline = 600
)

// Default fills in the numbers and the strategy.
func (kind) Default(obj *appsv1.Deployment) {
	s := &obj.Spec
	if s.Replicas == nil {
		s.Replicas = ptr.To(workload.Replicas(nil))
	}
	if s.Strategy.Type == "" {
		s.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if s.Strategy.Type == appsv1.RollingUpdateDeploymentStrategyType {
		if s.Strategy.RollingUpdate == nil {
			s.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
		}
		for _, share := range []**intstr.IntOrString{&s.Strategy.RollingUpdate.MaxUnavailable, &s.Strategy.RollingUpdate.MaxSurge} {
			if *share == nil {
				*share = ptr.To(intstr.FromString(defaultShare))
			}
		}
	}
	if s.RevisionHistoryLimit == nil {
		s.RevisionHistoryLimit = ptr.To[int32](defaultHistory)
	}
	if s.ProgressDeadlineSeconds == nil {
		s.ProgressDeadlineSeconds = ptr.To[int32](defaultDeadline)
	}
	podspec.DefaultTemplate(&s.Template)
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *appsv1.Deployment) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, nil)
}

// PrepareForUpdate drops what is not enabled and was not there. Changed annotations raise the generation as a changed
// spec does: ReplicaSets get copies of them.
func (kind) PrepareForUpdate(_ context.Context, obj, old *appsv1.Deployment) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, &old.Spec.Template)
	if !equality.Semantic.DeepEqual(obj.Annotations, old.Annotations) {
		obj.Generation = old.Generation + 1
	}
}

// PrepareForStatusUpdate leaves the labels alone.
func (kind) PrepareForStatusUpdate(_ context.Context, obj, old *appsv1.Deployment) {
	obj.Labels = old.Labels
}

// Warnings warns of a new name and of a new or changed template.
func (kind) Warnings(_ context.Context, obj, old *appsv1.Deployment) []string {
	if old != nil && old.Generation == obj.Generation {
		return nil
	}
	list := workload.TemplateWarnings(&obj.Spec.Template, specPath.Child("template"))
	if old != nil {
		return list
	}
	return append(workload.NameWarnings(obj.Name), list...)
}

// Scale implements resource.Scaler.
func (kind) Scale(obj *appsv1.Deployment) (int32, int32, string, error) {
	return workload.Scale(obj.Spec.Replicas, obj.Status.Replicas, obj.Spec.Selector)
}

// SetReplicas implements resource.Scaler.
func (kind) SetReplicas(obj *appsv1.Deployment, n int32) { obj.Spec.Replicas = &n }

// Columns are those of `kubectl get deployments`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := appsv1.DeploymentSpec{}.SwaggerDoc(), appsv1.DeploymentStatus{}.SwaggerDoc()
	return workload.Columns([]metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Ready", "Number of the pod with ready state"),
		table.Text("Up-to-date", status["updatedReplicas"]),
		table.Text("Available", status["availableReplicas"]),
		table.Age(),
	}, workload.ContainerColumns(), []metav1.TableColumnDefinition{
		table.Wide(table.Text("Selector", spec["selector"])),
	})
}

// Row is one line of the table.
func (kind) Row(obj *appsv1.Deployment) ([]any, error) {
	selector, err := metav1.LabelSelectorAsSelector(obj.Spec.Selector)
	if err != nil {
		return nil, fmt.Errorf("read the selector of deployment %s: %w", obj.Name, err)
	}
	names, images := workload.Containers(&obj.Spec.Template)
	return []any{
		obj.Name, fmt.Sprintf("%d/%d", obj.Status.ReadyReplicas, workload.Replicas(obj.Spec.Replicas)),
		int64(obj.Status.UpdatedReplicas), int64(obj.Status.AvailableReplicas),
		table.Since(obj.CreationTimestamp), names, images, selector.String(),
	}, nil
}
