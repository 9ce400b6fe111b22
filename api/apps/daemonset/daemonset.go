// Package daemonset declares apps/v1 DaemonSet.
package daemonset

import (
	"context"
	"strconv"

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
	return resource.Declare[appsv1.DaemonSet](resource.Declaration{
		GVK:        appsv1.SchemeGroupVersion.WithKind("DaemonSet"),
		Plural:     "daemonsets",
		ShortNames: []string{"ds"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &appsv1.DaemonSetList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*appsv1.DaemonSet]       = kind{}
	_ resource.CreatePreparer[*appsv1.DaemonSet]  = kind{}
	_ resource.UpdatePreparer[*appsv1.DaemonSet]  = kind{}
	_ resource.Validator[*appsv1.DaemonSet]       = kind{}
	_ resource.UpdateValidator[*appsv1.DaemonSet] = kind{}
	_ resource.StatusValidator[*appsv1.DaemonSet] = kind{}
	_ resource.Warner[*appsv1.DaemonSet]          = kind{}
	_ resource.Printer[*appsv1.DaemonSet]         = kind{}
)

const defaultHistory = 10

// Default fills in the strategy.
func (kind) Default(obj *appsv1.DaemonSet) {
	s := &obj.Spec.UpdateStrategy
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if s.Type == appsv1.RollingUpdateDaemonSetStrategyType {
		if s.RollingUpdate == nil {
			s.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
		}
		if s.RollingUpdate.MaxUnavailable == nil {
			s.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(1))
		}
		if s.RollingUpdate.MaxSurge == nil {
			s.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(0))
		}
	}
	if obj.Spec.RevisionHistoryLimit == nil {
		obj.Spec.RevisionHistoryLimit = ptr.To[int32](defaultHistory)
	}
	podspec.DefaultTemplate(&obj.Spec.Template)
}

// PrepareForCreate drops what is not enabled and counts the template as the first.
func (kind) PrepareForCreate(_ context.Context, obj *appsv1.DaemonSet) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, nil)
	setTemplateGeneration(obj, max(templateGeneration(obj), 1))
}

// PrepareForUpdate drops what is not enabled and was not there, and counts the template anew if it has changed.
func (kind) PrepareForUpdate(_ context.Context, obj, old *appsv1.DaemonSet) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, &old.Spec.Template)
	n := templateGeneration(old)
	if !equality.Semantic.DeepEqual(obj.Spec.Template, old.Spec.Template) {
		n++
	}
	setTemplateGeneration(obj, n)
}

// templateGeneration is how often the template has changed, which is kept in an annotation for clients of old.
func templateGeneration(obj *appsv1.DaemonSet) int64 {
	n, err := strconv.ParseInt(obj.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	if err != nil { // Absent, or not the API's.
		return 0
	}
	return n
}

func setTemplateGeneration(obj *appsv1.DaemonSet, n int64) {
	if obj.Annotations == nil {
		obj.Annotations = map[string]string{}
	}
	obj.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

// Warnings warns of a new or changed template.
func (kind) Warnings(_ context.Context, obj, old *appsv1.DaemonSet) []string {
	if old != nil && templateGeneration(old) == templateGeneration(obj) {
		return nil
	}
	return workload.TemplateWarnings(&obj.Spec.Template, specPath.Child("template"))
}

// Columns are those of `kubectl get daemonsets`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := appsv1.DaemonSetSpec{}.SwaggerDoc(), appsv1.DaemonSetStatus{}.SwaggerDoc()
	return workload.Columns([]metav1.TableColumnDefinition{
		table.Name(),
		table.Integer("Desired", status["desiredNumberScheduled"]),
		table.Integer("Current", status["currentNumberScheduled"]),
		table.Integer("Ready", status["numberReady"]),
		table.Integer("Up-to-date", status["updatedNumberScheduled"]),
		table.Integer("Available", status["numberAvailable"]),
		table.Text("Node Selector", "The node labels that the pods of the template ask for."),
		table.Age(),
	}, workload.ContainerColumns(), []metav1.TableColumnDefinition{
		table.Wide(table.Text("Selector", spec["selector"])),
	})
}

// Row is one line of the table.
func (kind) Row(obj *appsv1.DaemonSet) ([]any, error) {
	names, images := workload.Containers(&obj.Spec.Template)
	s := &obj.Status
	return []any{
		obj.Name, int64(s.DesiredNumberScheduled), int64(s.CurrentNumberScheduled), int64(s.NumberReady),
		int64(s.UpdatedNumberScheduled), int64(s.NumberAvailable), table.Pairs(obj.Spec.Template.Spec.NodeSelector),
		table.Since(obj.CreationTimestamp), names, images, metav1.FormatLabelSelector(obj.Spec.Selector),
	}, nil
}
