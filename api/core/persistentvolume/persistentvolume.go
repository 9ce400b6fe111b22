// Package persistentvolume declares core/v1 PersistentVolume.
package persistentvolume

import (
	"context"
	"fmt"

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
	return resource.Declare[corev1.PersistentVolume](resource.Declaration{
		GVK:           corev1.SchemeGroupVersion.WithKind("PersistentVolume"),
		Plural:        "persistentvolumes",
		ShortNames:    []string{"pv"},
		Status:        true,
		ReturnDeleted: true,
	}, func() runtime.Object { return &corev1.PersistentVolumeList{} }, kind{})
}

type kind struct{}

var (
	_ resource.Defaulter[*corev1.PersistentVolume]       = kind{}
	_ resource.CreatePreparer[*corev1.PersistentVolume]  = kind{}
	_ resource.StatusPreparer[*corev1.PersistentVolume]  = kind{}
	_ resource.Validator[*corev1.PersistentVolume]       = kind{}
	_ resource.UpdateValidator[*corev1.PersistentVolume] = kind{}
	_ resource.Warner[*corev1.PersistentVolume]          = kind{}
	_ resource.Printer[*corev1.PersistentVolume]         = kind{}
)

// Default fills in policy, mode and phase, and the parameters of the source.
func (kind) Default(obj *corev1.PersistentVolume) {
	s := &obj.Spec
	if obj.Status.Phase == "" {
		obj.Status.Phase = corev1.VolumePending
	}
	if s.PersistentVolumeReclaimPolicy == "" {
		s.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	}
	if s.VolumeMode == nil {
		s.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	quantity.RoundUp(s.Capacity)
	defaultSource(&s.PersistentVolumeSource)
}

// defaultSource gives the sources that Pods have too what they have there.
func defaultSource(s *corev1.PersistentVolumeSource) {
	vol := asVolume("", s)
	if *vol == (corev1.Volume{}) {
		return
	}
	podspec.DefaultVolume(vol)
	if s.RBD != nil {
		s.RBD.RBDPool, s.RBD.RadosUser, s.RBD.Keyring = vol.RBD.RBDPool, vol.RBD.RadosUser, vol.RBD.Keyring
	}
	if s.ISCSI != nil {
		s.ISCSI.ISCSIInterface = vol.ISCSI.ISCSIInterface
	}
	if s.ScaleIO != nil {
		s.ScaleIO.StorageMode, s.ScaleIO.FSType = vol.ScaleIO.StorageMode, vol.ScaleIO.FSType
	}
}

// PrepareForCreate sets the first phase.
func (kind) PrepareForCreate(_ context.Context, obj *corev1.PersistentVolume) {
	obj.Status.Phase = corev1.VolumePending
	obj.Status.LastPhaseTransitionTime = ptr.To(metav1.Now())
}

// PrepareForStatusUpdate takes down when the phase changes, unless the writer has.
func (kind) PrepareForStatusUpdate(_ context.Context, obj, old *corev1.PersistentVolume) {
	if obj.Status.Phase == old.Status.Phase {
		return
	}
	if t := obj.Status.LastPhaseTransitionTime; t == nil || t.Equal(old.Status.LastPhaseTransitionTime) {
		obj.Status.LastPhaseTransitionTime = ptr.To(metav1.Now())
	}
}

// Warnings warns of what is deprecated.
func (kind) Warnings(_ context.Context, obj, _ *corev1.PersistentVolume) []string {
	list := access.ClassWarnings(obj.Annotations)
	if obj.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		list = append(list, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if q, ok := obj.Spec.Capacity[corev1.ResourceStorage]; ok && q.MilliValue()%1000 != 0 {
		list = append(list, fmt.Sprintf("spec.capacity[storage]: fractional byte value %q is invalid, must be an integer", q.String()))
	}
	return list
}

// Columns are those of `kubectl get persistentvolumes`.
func (kind) Columns() []metav1.TableColumnDefinition {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return []metav1.TableColumnDefinition{
		table.Name(),
		table.Text("Capacity", spec["capacity"]),
		table.Text("Access Modes", spec["accessModes"]),
		table.Text("Reclaim Policy", spec["persistentVolumeReclaimPolicy"]),
		table.Text("Status", status["phase"]),
		table.Text("Claim", spec["claimRef"]),
		table.Text("StorageClass", "StorageClass of the pv"),
		table.Text("VolumeAttributesClass", "VolumeAttributesClass of the pv"),
		table.Text("Reason", status["reason"]),
		table.Age(),
		table.Wide(table.Text("VolumeMode", spec["volumeMode"])),
	}
}

// Row is one line of the table.
func (kind) Row(obj *corev1.PersistentVolume) ([]any, error) {
	claim := ""
	if ref := obj.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	capacity := obj.Spec.Capacity[corev1.ResourceStorage]
	return []any{
		obj.Name, capacity.String(), access.Modes(obj.Spec.AccessModes), string(obj.Spec.PersistentVolumeReclaimPolicy),
		access.Phase(obj, obj.Status.Phase), claim, access.Class(obj.Annotations, &obj.Spec.StorageClassName),
		access.OrUnset(obj.Spec.VolumeAttributesClassName), obj.Status.Reason, table.Since(obj.CreationTimestamp),
		access.OrUnset(obj.Spec.VolumeMode),
	}, nil
}
