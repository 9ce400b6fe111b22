package framework

import (
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// What brings a Pod into a queue besides an Event, by upstream's names.
const (
	PodAdd                 = "UnschedulablePodAdd"
	ScheduleAttemptFailure = "ScheduleAttemptFailure"
	BackoffComplete        = "BackoffComplete"
	ForceActivate          = "ForceActivate"
)

// Label is upstream's name of the event, as far as it has one. Of a Node or a Pod that changed it names one change.
func (e Event) Label() string {
	switch {
	case e.OldNode != nil && e.NewNode != nil:
		return "Node" + nodeChange(e.OldNode, e.NewNode)
	case e.OldPod != nil && e.NewPod != nil && !e.PodLeft():
		return "AssignedPod" + e.podChange()
	case e.PodLeft():
		return "AssignedPodDelete"
	case e.Devices != nil:
		return e.Devices.label()
	}
	for _, l := range []string{
		changeOf("Node", e.OldNode, e.NewNode), changeOf("AssignedPod", e.OldPod, e.NewPod), changeOf("Namespace", e.OldNamespace, e.NewNamespace),
		changeOf("PersistentVolumeClaim", e.OldClaim, e.NewClaim), changeOf("PersistentVolume", e.OldVolume, e.NewVolume),
		changeOf("StorageClass", e.OldClass, e.NewClass), changeOf("storage.k8s.io/CSINode", e.OldCSINode, e.NewCSINode),
		changeOf("storage.k8s.io/CSIDriver", e.OldCSIDriver, e.NewCSIDriver), changeOf("storage.k8s.io/VolumeAttachment", e.OldAttachment, e.NewAttachment),
		changeOf("storage.k8s.io/CSIStorageCapacity", e.OldCapacity, e.NewCapacity),
	} {
		if l != "" {
			return l
		}
	}
	return ForceActivate
}

// label is as Label. A rule changes what slices say; that all has become known is no change.
func (e *DeviceEvent) label() string {
	for _, l := range []string{
		changeOf("resource.k8s.io/ResourceClaim", e.OldClaim, e.NewClaim), changeOf("resource.k8s.io/DeviceClass", e.OldClass, e.NewClass),
		changeOf("resource.k8s.io/ResourceSlice", e.OldSlice, e.NewSlice),
	} {
		if l != "" {
			return l
		}
	}
	if e.OldRule != nil || e.NewRule != nil {
		return "resource.k8s.io/ResourceSliceUpdate"
	}
	return ForceActivate
}

// changeOf names what happened to an object; empty if nothing did.
func changeOf[T any](resource string, old, new *T) string {
	switch {
	case old == nil && new == nil:
		return ""
	case old == nil:
		return resource + "Add"
	case new == nil:
		return resource + "Delete"
	}
	return resource + "Update"
}

func nodeChange(old, new *corev1.Node) string {
	same := equality.Semantic.DeepEqual
	switch {
	case old.Spec.Unschedulable && !new.Spec.Unschedulable:
		return "UpdateNodeTaint" // of which cordoning is one
	case !same(old.Status.Allocatable, new.Status.Allocatable):
		return "UpdateNodeAllocatable"
	case !maps.Equal(old.Labels, new.Labels):
		return "UpdateNodeLabel"
	case !same(old.Spec.Taints, new.Spec.Taints):
		return "UpdateNodeTaint"
	case !slices.EqualFunc(old.Status.Conditions, new.Status.Conditions, func(a, b corev1.NodeCondition) bool { return a.Type == b.Type && a.Status == b.Status }):
		return "UpdateNodeCondition"
	case !maps.Equal(old.Annotations, new.Annotations):
		return "UpdateNodeAnnotation"
	case !slices.Equal(old.Status.DeclaredFeatures, new.Status.DeclaredFeatures):
		return "UpdateNodeDeclaredFeature"
	}
	return "Update"
}

// podChange names what became of a Pod that stays on its node.
func (e Event) podChange() string {
	if !maps.Equal(e.OldPod.Labels, e.NewPod.Labels) {
		return "UpdatePodLabel"
	}
	if e.OldRequests.AnyLess(e.NewRequests, e.OldRequests) {
		return "UpdatePodScaleDown"
	}
	return "Update"
}

// PodChange names what changed of a Pod that waits for a node.
func PodChange(old, new *corev1.Pod) string {
	if old == nil {
		return PodAdd
	}
	change := "Update"
	switch {
	case !maps.Equal(old.Labels, new.Labels):
		change = "UpdatePodLabel"
	case len(old.Spec.SchedulingGates) > 0 && len(new.Spec.SchedulingGates) == 0:
		change = "UpdatePodSchedulingGatesEliminated"
	case len(old.Spec.Tolerations) != len(new.Spec.Tolerations):
		change = "UpdatePodToleration"
	case !resourceclaim.PodStatusEqual(old.Status.ResourceClaimStatuses, new.Status.ResourceClaimStatuses):
		change = "UpdatePodGeneratedResourceClaim"
	}
	return "UnschedulablePod" + change
}
