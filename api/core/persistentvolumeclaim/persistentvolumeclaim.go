// Package persistentvolumeclaim declares core/v1 PersistentVolumeClaim.
package persistentvolumeclaim

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/api/core/podspec"
	"github.com/peapod/peapod/api/quantity"
	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/api/storage/access"
	"github.com/peapod/peapod/api/table"
)

// Declaration returns the declaration of the kind.
func Declaration() *resource.Declaration {
	return resource.Declare[corev1.PersistentVolumeClaim](resource.Declaration{
		GVK:           corev1.SchemeGroupVersion.WithKind("PersistentVolumeClaim"),
		Plural:        "persistentvolumeclaims",
		ShortNames:    []string{"pvc"},
		Namespaced:    true,
		Status:        true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &corev1.PersistentVolumeClaimList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.PersistentVolumeClaim]       = kind{}
	_ resource.CreatePreparer[*corev1.PersistentVolumeClaim]  = kind{}
	_ resource.UpdatePreparer[*corev1.PersistentVolumeClaim]  = kind{}
	_ resource.StatusPreparer[*corev1.PersistentVolumeClaim]  = kind{}
	_ resource.Validator[*corev1.PersistentVolumeClaim]       = kind{}
	_ resource.UpdateValidator[*corev1.PersistentVolumeClaim] = kind{}
	_ resource.StatusValidator[*corev1.PersistentVolumeClaim] = kind{}
	_ resource.Warner[*corev1.PersistentVolumeClaim]          = kind{}
	_ resource.Printer[*corev1.PersistentVolumeClaim]         = kind{}
)

// Default fills in mode and phase.
func (kind) Default(obj *corev1.PersistentVolumeClaim) {
	if obj.Status.Phase == "" {
		obj.Status.Phase = corev1.ClaimPending
	}
	podspec.DefaultClaimSpec(&obj.Spec)
	quantity.RoundUp(obj.Status.Capacity)
	quantity.RoundUp(obj.Status.AllocatedResources)
}

// PrepareForCreate sets the first phase and has the two fields for a data source say the same.
func (kind) PrepareForCreate(_ context.Context, obj *corev1.PersistentVolumeClaim) {
	obj.Status.Phase = corev1.ClaimPending
	drop(&obj.Spec, nil)
	alignSources(&obj.Spec)
}

// PrepareForUpdate does the same for a change.
func (kind) PrepareForUpdate(_ context.Context, obj, old *corev1.PersistentVolumeClaim) {
	drop(&obj.Spec, &old.Spec)
	alignSources(&obj.Spec)
}

// PrepareForStatusUpdate drops what is not enabled and was not there.
func (kind) PrepareForStatusUpdate(_ context.Context, obj, old *corev1.PersistentVolumeClaim) {
	if old.Status.HealthStatus == nil {
		obj.Status.HealthStatus = nil
	}
}

// drop clears what is not enabled: data sources in other namespaces, and in the older field all but claims and
// snapshots, which once were silently ignored.
func drop(s, old *corev1.PersistentVolumeClaimSpec) {
	elsewhere := func(s *corev1.PersistentVolumeClaimSpec) bool {
		return s != nil && s.DataSourceRef != nil && ptr.Deref(s.DataSourceRef.Namespace, "") != ""
	}
	if elsewhere(s) && !elsewhere(old) {
		s.DataSourceRef = nil
	}
	if d := s.DataSource; d != nil && (old == nil || old.DataSource == nil) {
		group := ptr.Deref(d.APIGroup, "")
		claim := d.Kind == "PersistentVolumeClaim" && group == ""
		snapshot := d.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io"
		if !claim && !snapshot {
			s.DataSource = nil
		}
	}
}

// alignSources fills in the one of the two fields that is empty, unless the source is in another namespace.
func alignSources(s *corev1.PersistentVolumeClaimSpec) {
	switch d, ref := s.DataSource, s.DataSourceRef; {
	case d != nil && ref == nil:
		s.DataSourceRef = &corev1.TypedObjectReference{APIGroup: d.APIGroup, Kind: d.Kind, Name: d.Name}
	case d == nil && ref != nil && ptr.Deref(ref.Namespace, "") == "":
		s.DataSource = &corev1.TypedLocalObjectReference{APIGroup: ref.APIGroup, Kind: ref.Kind, Name: ref.Name}
	}
}

// Warnings warns of what is deprecated or hardly meant.
func (kind) Warnings(_ context.Context, obj, _ *corev1.PersistentVolumeClaim) []string {
	return append(access.ClassWarnings(obj.Annotations), podspec.ClaimWarnings(&obj.Spec, specPath)...)
}

// Columns are those of `kubectl get persistentvolumeclaims`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Status", status["phase"]),
		table.Text("Volume", spec["volumeName"]),
		table.Text("Capacity", status["capacity"]),
		table.Text("Access Modes", status["accessModes"]),
		table.Text("StorageClass", "StorageClass of the pvc"),
		table.Text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
		table.Age(),
		table.Wide(table.Text("VolumeMode", spec["volumeMode"])),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.PersistentVolumeClaim) ([]any, error) {
	capacity, modes := "", ""
	if obj.Spec.VolumeName != "" {
		q := obj.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = q.String(), access.Modes(obj.Status.AccessModes)
	}
	return []any{
		obj.Name, access.Phase(obj, obj.Status.Phase), obj.Spec.VolumeName, capacity, modes,
		access.Class(obj.Annotations, obj.Spec.StorageClassName), access.OrUnset(obj.Spec.VolumeAttributesClassName),
		table.Since(obj.CreationTimestamp), access.OrUnset(obj.Spec.VolumeMode),
	}, nil
}
