// Package claimgrowth is how a claim says that its volume grows, as Kubernetes' resizers and kubelets write it:
//
//	spec asks for more   -> controller: Begin, the volume's capacity, then Finish where the node has nothing to do
//	NodeResizePending    -> the node: BeginOnNode, the file system, Finish
//	the node cannot      -> the node: FailOnNode, and it tries again
//
// The functions change the claim that they are given; Write stores what has changed.
package claimgrowth

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
)

// Reasons of events; upstream's.
const (
	ReasonResizing             = "Resizing"
	ReasonResized              = "VolumeResizeSuccessful"
	ReasonResizeFailed         = "VolumeResizeFailed"
	ReasonFileSystemResized    = "FileSystemResizeSuccessful"
	ReasonFileSystemNotResized = "FileSystemResizeFailed"
)

// Wanted says whether a bound claim asks for more than it has.
func Wanted(c *corev1.PersistentVolumeClaim) bool {
	has, ok := c.Status.Capacity[corev1.ResourceStorage]
	return ok && c.Status.Phase == corev1.ClaimBound && c.Spec.Resources.Requests.Storage().Cmp(has) > 0
}

// Stage is how far the growth of the claim's volume has come; empty where none is under way.
func Stage(c *corev1.PersistentVolumeClaim) corev1.ClaimResourceStatus {
	return c.Status.AllocatedResourceStatuses[corev1.ResourceStorage]
}

// Begin says that the volume is being made larger, to size.
func Begin(c *corev1.PersistentVolumeClaim, size resource.Quantity) {
	stage(c, corev1.PersistentVolumeClaimControllerResizeInProgress)
	if c.Status.AllocatedResources == nil {
		c.Status.AllocatedResources = corev1.ResourceList{}
	}
	c.Status.AllocatedResources[corev1.ResourceStorage] = size
	only(c, &corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimResizing, Status: corev1.ConditionTrue})
}

// BeginOnNode says that the node makes the volume's file system larger.
func BeginOnNode(c *corev1.PersistentVolumeClaim) {
	stage(c, corev1.PersistentVolumeClaimNodeResizeInProgress)
}

// FailOnNode says what hinders the node.
func FailOnNode(c *corev1.PersistentVolumeClaim, err error) {
	add(c, corev1.PersistentVolumeClaimCondition{Type: corev1.PersistentVolumeClaimNodeResizeError, Status: corev1.ConditionTrue,
		Message: fmt.Sprintf("failed to expand pvc with %v", err)})
}

// Finish says that the volume has that size. What it was to be stays in status.allocatedResources.
func Finish(c *corev1.PersistentVolumeClaim, size resource.Quantity) {
	if c.Status.Capacity == nil {
		c.Status.Capacity = corev1.ResourceList{}
	}
	c.Status.Capacity[corev1.ResourceStorage] = size
	delete(c.Status.AllocatedResourceStatuses, corev1.ResourceStorage)
	only(c, nil)
}

func stage(c *corev1.PersistentVolumeClaim, s corev1.ClaimResourceStatus) {
	if c.Status.AllocatedResourceStatuses == nil {
		c.Status.AllocatedResourceStatuses = map[corev1.ResourceName]corev1.ClaimResourceStatus{}
	}
	c.Status.AllocatedResourceStatuses[corev1.ResourceStorage] = s
}

// only makes want the one condition of growth; nil: there is none. What other conditions there are stays.
func only(c *corev1.PersistentVolumeClaim, want *corev1.PersistentVolumeClaimCondition) {
	var kept []corev1.PersistentVolumeClaimCondition
	for _, is := range c.Status.Conditions {
		switch is.Type {
		case corev1.PersistentVolumeClaimResizing, corev1.PersistentVolumeClaimFileSystemResizePending,
			corev1.PersistentVolumeClaimControllerResizeError, corev1.PersistentVolumeClaimNodeResizeError:
			if want == nil || is.Type != want.Type {
				continue
			}
		}
		kept = append(kept, is)
	}
	c.Status.Conditions = kept
	if want != nil {
		add(c, *want)
	}
}

// add sets a condition. When it has changed is when its status has.
func add(c *corev1.PersistentVolumeClaim, want corev1.PersistentVolumeClaimCondition) {
	for i := range c.Status.Conditions {
		if is := &c.Status.Conditions[i]; is.Type == want.Type {
			if is.Status != want.Status {
				is.LastTransitionTime = metav1.Now()
			}
			is.Status, is.Reason, is.Message = want.Status, want.Reason, want.Message
			return
		}
	}
	want.LastTransitionTime = metav1.Now()
	c.Status.Conditions = append(c.Status.Conditions, want)
}

// Write stores how the status of a claim has changed since it was was, and returns the claim as it is then. It is a conflict
// where somebody else has written it meanwhile.
func Write(ctx context.Context, client kubernetes.Interface, was, now *corev1.PersistentVolumeClaim) (*corev1.PersistentVolumeClaim, error) {
	// A field that the first has not got and the second has is in the patch: the version that the claim must have.
	old := &corev1.PersistentVolumeClaim{Status: was.Status}
	changed := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{UID: was.UID, ResourceVersion: was.ResourceVersion}, Status: now.Status}
	a, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	b, err := json.Marshal(changed)
	if err != nil {
		return nil, err
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(a, b, corev1.PersistentVolumeClaim{})
	if err != nil {
		return nil, fmt.Errorf("compare status of claim %s/%s: %w", was.Namespace, was.Name, err)
	}
	now, err = client.CoreV1().PersistentVolumeClaims(was.Namespace).Patch(ctx, was.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	if err != nil {
		return nil, fmt.Errorf("write status of claim %s/%s: %w", was.Namespace, was.Name, err)
	}
	return now, nil
}
