// Package statefulset declares apps/v1 StatefulSet.
package statefulset

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/apps/workload"
	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/quantity"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[appsv1.StatefulSet](resource.Declaration{
		GVK:        appsv1.SchemeGroupVersion.WithKind("StatefulSet"),
		Plural:     "statefulsets",
		ShortNames: []string{"sts"},
		Categories: []string{"all"},
		Namespaced: true,
		Status:     true,
		Generation: true,
	}, func() runtime.Object { return &appsv1.StatefulSetList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*appsv1.StatefulSet]       = kind{}
	_ resource.CreatePreparer[*appsv1.StatefulSet]  = kind{}
	_ resource.UpdatePreparer[*appsv1.StatefulSet]  = kind{}
	_ resource.Validator[*appsv1.StatefulSet]       = kind{}
	_ resource.UpdateValidator[*appsv1.StatefulSet] = kind{}
	_ resource.StatusValidator[*appsv1.StatefulSet] = kind{}
	_ resource.Warner[*appsv1.StatefulSet]          = kind{}
	_ resource.Scaler[*appsv1.StatefulSet]          = kind{}
	_ resource.Printer[*appsv1.StatefulSet]         = kind{}
)

const defaultHistory = 10

// Default fills in the policies, the numbers and the templates.
func (kind) Default(obj *appsv1.StatefulSet) {
	s := &obj.Spec
	if s.PodManagementPolicy == "" {
		s.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	defaultStrategy(&s.UpdateStrategy)
	if s.PersistentVolumeClaimRetentionPolicy == nil {
		s.PersistentVolumeClaimRetentionPolicy = &appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{}
	}
	retention := s.PersistentVolumeClaimRetentionPolicy
	for _, policy := range []*appsv1.PersistentVolumeClaimRetentionPolicyType{&retention.WhenDeleted, &retention.WhenScaled} {
		if *policy == "" {
			*policy = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
		}
	}
	if s.Replicas == nil {
		s.Replicas = ptr.To(workload.Replicas(nil))
	}
	if s.RevisionHistoryLimit == nil {
		s.RevisionHistoryLimit = ptr.To[int32](defaultHistory)
	}
	podspec.DefaultTemplate(&s.Template)
	for i := range s.VolumeClaimTemplates {
		defaultClaim(&s.VolumeClaimTemplates[i])
	}
}

// defaultStrategy makes parameters only where none of the strategy was given, as Kubernetes does.
func defaultStrategy(s *appsv1.StatefulSetUpdateStrategy) {
	if s.Type == "" {
		s.Type = appsv1.RollingUpdateStatefulSetStrategyType
		if s.RollingUpdate == nil {
			s.RollingUpdate = &appsv1.RollingUpdateStatefulSetStrategy{}
		}
	}
	if s.Type != appsv1.RollingUpdateStatefulSetStrategyType || s.RollingUpdate == nil {
		return
	}
	if s.RollingUpdate.Partition == nil {
		s.RollingUpdate.Partition = ptr.To[int32](0)
	}
	if s.RollingUpdate.MaxUnavailable == nil {
		s.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(1))
	}
}

// defaultClaim fills in a template of claims, which is a whole claim and says so.
func defaultClaim(c *corev1.PersistentVolumeClaim) {
	if c.APIVersion == "" && c.Kind == "" {
		c.APIVersion, c.Kind = "v1", "PersistentVolumeClaim"
	}
	if c.Status.Phase == "" {
		c.Status.Phase = corev1.ClaimPending
	}
	podspec.DefaultClaimSpec(&c.Spec)
	quantity.RoundUp(c.Status.Capacity)
	quantity.RoundUp(c.Status.AllocatedResources)
}

// PrepareForCreate drops what is not enabled.
func (kind) PrepareForCreate(_ context.Context, obj *appsv1.StatefulSet) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, nil)
}

// PrepareForUpdate drops what is not enabled and was not there.
func (kind) PrepareForUpdate(_ context.Context, obj, old *appsv1.StatefulSet) {
	podspec.DropDisabledTemplateFields(&obj.Spec.Template, &old.Spec.Template)
}

// Warnings warns of a new name and of a new or changed spec.
func (kind) Warnings(_ context.Context, obj, old *appsv1.StatefulSet) []string {
	var list []string
	if old == nil {
		list = workload.NameWarnings(obj.Name)
	}
	if old == nil || old.Generation != obj.Generation {
		list = append(list, workload.TemplateWarnings(&obj.Spec.Template, specPath.Child("template"))...)
		for i := range obj.Spec.VolumeClaimTemplates {
			list = append(list, podspec.ClaimWarnings(&obj.Spec.VolumeClaimTemplates[i].Spec,
				specPath.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
	}
	if n := obj.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
		list = append(list, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
	}
	return list
}

// Scale implements resource.Scaler.
func (kind) Scale(obj *appsv1.StatefulSet) (int32, int32, string, error) {
	return workload.Scale(obj.Spec.Replicas, obj.Status.Replicas, obj.Spec.Selector)
}

// SetReplicas implements resource.Scaler.
func (kind) SetReplicas(obj *appsv1.StatefulSet, n int32) { obj.Spec.Replicas = &n }

// Columns are those of `kubectl get statefulsets`.
func (kind) Columns() []metav1.TableColumnDefinition {
	return workload.Columns([]metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Ready", "Number of the pod with ready state"),
		table.Age(),
	}, workload.ContainerColumns())
}

// Row is one line of the table.
func (kind) Row(obj *appsv1.StatefulSet) ([]any, error) {
	names, images := workload.Containers(&obj.Spec.Template)
	return []any{
		obj.Name, fmt.Sprintf("%d/%d", obj.Status.ReadyReplicas, workload.Replicas(obj.Spec.Replicas)),
		table.Since(obj.CreationTimestamp), names, images,
	}, nil
}
