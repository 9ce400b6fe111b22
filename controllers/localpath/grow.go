package localpath

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/claimgrowth"
	"github.com/peapod/peapod/internal/localpath"
)

// raced is after what time a claim is looked at again whose volume, or itself, somebody else has written meanwhile.
const raced = 20 * time.Millisecond

// grow gives a claim that asks for more what it asks for. A directory has no size of its own, so that what grows is what the
// API says of it, in the three steps that others expect of a resizer: the claim says that it is resized, the volume has the
// new capacity, the claim has it. The last ends what brings the claim here, so that a controller that stops between them
// goes on with the next.
func (c *controller) grow(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) || err == nil && !c.growable(v, claim) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read volume: %w", err)
	}
	if err := c.growTo(ctx, claim, v, target(claim)); apierrors.IsConflict(err) {
		return &engine.Retry{After: raced, Why: err.Error()}
	} else if err != nil && !apierrors.IsNotFound(err) {
		c.recorder.Eventf(claim, corev1.EventTypeWarning, claimgrowth.ReasonResizeFailed, "resize volume %q by resizer %q failed: %v", v.Name, localpath.Provisioner, err)
		return fmt.Errorf("grow claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// growable says whether the volume is the provisioner's and the claim's, and the node has nothing to do with its growth.
func (c *controller) growable(v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) bool {
	return localpath.Made(v) && v.Spec.ClaimRef != nil && v.Spec.ClaimRef.UID == claim.UID
}

// target is the size that the volume is to have: what the claim asks for, unless it asked for another before and is still
// on its way there.
func target(claim *corev1.PersistentVolumeClaim) resource.Quantity {
	if begun, ok := claim.Status.AllocatedResources[corev1.ResourceStorage]; ok &&
		claimgrowth.Stage(claim) == corev1.PersistentVolumeClaimControllerResizeInProgress {
		return begun
	}
	return claim.Spec.Resources.Requests[corev1.ResourceStorage]
}

func (c *controller) growTo(ctx context.Context, claim *corev1.PersistentVolumeClaim, v *corev1.PersistentVolume, size resource.Quantity) error {
	begun := claim.DeepCopy()
	claimgrowth.Begin(begun, size)
	claim, err := claimgrowth.Write(ctx, c.client, claim, begun)
	if err != nil {
		return err
	}
	c.recorder.Eventf(claim, corev1.EventTypeNormal, claimgrowth.ReasonResizing, "External resizer is resizing volume %s", v.Name)
	if has := v.Spec.Capacity[corev1.ResourceStorage]; has.Cmp(size) >= 0 {
		size = has // volumes do not shrink
	} else {
		v = v.DeepCopy()
		v.Spec.Capacity[corev1.ResourceStorage] = size
		if _, err := c.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write capacity of volume %s: %w", v.Name, err)
		}
	}
	done := claim.DeepCopy()
	claimgrowth.Finish(done, size)
	if claim, err = claimgrowth.Write(ctx, c.client, claim, done); err != nil {
		return err
	}
	c.recorder.Event(claim, corev1.EventTypeNormal, claimgrowth.ReasonResized, "Resize volume succeeded")
	return nil
}
