package persistentvolume

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

// bind takes those of the four steps of a binding that are missing. It may be repeated at any time.
func (c *controller) bind(ctx context.Context, volume *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	wanted, dirty, err := storage.GetBindVolumeToClaim(volume, claim)
	if err != nil {
		return fmt.Errorf("bind volume %s: %w", volume.Name, err)
	}
	if dirty {
		if volume, err = c.client.CoreV1().PersistentVolumes().Update(ctx, wanted, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind volume %s to claim %s/%s: %w", wanted.Name, claim.Namespace, claim.Name, err)
		}
		c.wrote(claim, c.volumeIndex, volume.ResourceVersion)
	}
	if err := c.setVolume(ctx, volume, corev1.VolumeBound, "", nil); err != nil {
		return err
	}
	if claim, err = c.nameVolume(ctx, claim, volume.Name); err != nil {
		return err
	}
	return c.setClaim(ctx, claim, corev1.ClaimBound, volume, nil)
}

// nameVolume writes into the claim which volume it has. Where the user has not asked for that one, it says so.
func (c *controller) nameVolume(ctx context.Context, claim *corev1.PersistentVolumeClaim, volume string) (*corev1.PersistentVolumeClaim, error) {
	ours, completed := claim.Spec.VolumeName != volume, metav1.HasAnnotation(claim.ObjectMeta, storage.AnnBindCompleted)
	if !ours && completed {
		return claim, nil
	}
	claim = claim.DeepCopy()
	if ours {
		claim.Spec.VolumeName = volume
		metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storage.AnnBoundByController, "yes")
	}
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storage.AnnBindCompleted, "yes")
	now, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("bind claim %s/%s to volume %s: %w", claim.Namespace, claim.Name, volume, err)
	}
	c.wrote(now, c.claimIndex, now.ResourceVersion)
	return now, nil
}

// unbind takes a volume's claim off it: all of it where this controller wrote it, else only the UID, since the user has
// reserved the volume for claims of that name.
func (c *controller) unbind(ctx context.Context, volume *corev1.PersistentVolume) error {
	volume = volume.DeepCopy()
	if metav1.HasAnnotation(volume.ObjectMeta, storage.AnnBoundByController) {
		volume.Spec.ClaimRef = nil
		delete(volume.Annotations, storage.AnnBoundByController)
	} else {
		volume.Spec.ClaimRef.UID = ""
	}
	now, err := c.client.CoreV1().PersistentVolumes().Update(ctx, volume, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("unbind volume %s: %w", volume.Name, err)
	}
	return c.setVolume(ctx, now, corev1.VolumeAvailable, "", nil)
}

// setVolume writes a volume's phase, and an event with the change; nothing where it has that phase.
func (c *controller) setVolume(ctx context.Context, volume *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string, n *note) error {
	if volume.Status.Phase == phase {
		return nil
	}
	volume = volume.DeepCopy()
	volume.Status.Phase, volume.Status.Message = phase, message
	now, err := c.client.CoreV1().PersistentVolumes().UpdateStatus(ctx, volume, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("set phase of volume %s to %s: %w", volume.Name, phase, err)
	}
	if n != nil {
		c.event(now, n)
	}
	return nil
}

// setClaim writes a claim's phase and what it has of its volume, nil for none, and an event where the phase changes. The
// capacity is written when the claim becomes bound: later it is for who resizes the volume.
func (c *controller) setClaim(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, volume *corev1.PersistentVolume, n *note) error {
	want, changes := claim.DeepCopy(), claim.Status.Phase != phase
	want.Status.Phase = phase
	switch {
	case volume == nil:
		want.Status.AccessModes, want.Status.Capacity, want.Status.CurrentVolumeAttributesClassName = nil, nil, nil
	default:
		want.Status.AccessModes = volume.Spec.AccessModes
		if changes {
			want.Status.Capacity = volume.Spec.Capacity.DeepCopy()
			want.Status.CurrentVolumeAttributesClassName = volume.Spec.VolumeAttributesClassName
		}
	}
	if equality.Semantic.DeepEqual(claim.Status, want.Status) {
		return nil
	}
	now, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, want, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("set phase of claim %s/%s to %s: %w", claim.Namespace, claim.Name, phase, err)
	}
	c.wrote(now, c.claimIndex, now.ResourceVersion)
	if n != nil && changes {
		c.event(now, n)
	}
	return nil
}
