package persistentvolume

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	storage "k8s.io/component-helpers/storage/volume"
)

// Reasons of events; upstream's.
const (
	reasonVolumeFailedDelete         = "VolumeFailedDelete"
	reasonVolumeFailedRecycle        = "VolumeFailedRecycle"
	reasonVolumeUnknownReclaimPolicy = "VolumeUnknownReclaimPolicy"
)

func (c *controller) syncVolume(ctx context.Context, v *corev1.PersistentVolume) error {
	ref := v.Spec.ClaimRef
	if ref == nil || ref.UID == "" { // free, or reserved by the user for a claim that is not bound yet
		return c.setVolume(ctx, v, corev1.VolumeAvailable, "", nil)
	}
	claim, err := c.claimOf(ctx, v)
	if err != nil {
		return err
	}
	switch {
	case claim == nil:
		return c.release(ctx, v)
	case claim.Spec.VolumeName == "":
		if storage.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) { // nobody else would say so: the claim's search passes it over
			c.event(v, warn(reasonVolumeMismatch, "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name))
			c.event(claim, warn(reasonVolumeMismatch, "Cannot bind PersistentVolume %q to requested PersistentVolumeClaim %q due to incompatible volumeMode.", v.Name, claim.Name))
			return nil
		}
		c.addClaim(cache.MetaObjectToName(claim))
		return nil
	case claim.Spec.VolumeName == v.Name:
		return c.setVolume(ctx, v, corev1.VolumeBound, "", nil)
	case metav1.HasAnnotation(v.ObjectMeta, storage.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return c.release(ctx, v) // made for the claim, which has got another meanwhile
	}
	return c.unbind(ctx, v)
}

// claimOf is the claim that the volume is bound to, nil if that is no more. Before a volume is given up the API is asked:
// the informer of claims may be behind.
func (c *controller) claimOf(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := v.Spec.ClaimRef
	claim, err := c.claims.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if err == nil && claim.UID == ref.UID {
		return claim, nil
	}
	if v.Status.Phase == corev1.VolumeReleased || v.Status.Phase == corev1.VolumeFailed {
		return nil, nil // a claim of that UID does not come back
	}
	claim, err = c.client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && claim.UID != ref.UID:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read claim of volume %s: %w", v.Name, err)
	}
	return claim, nil
}

// release is for a volume whose claim is gone: it is marked, for its provisioner and for the user, and what its policy asks
// for is done, or said to be impossible.
func (c *controller) release(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		return c.setVolume(ctx, v, corev1.VolumeReleased, "", nil) // its event brings the volume back
	}
	fail := func(reason, message string) error {
		return c.setVolume(ctx, v, corev1.VolumeFailed, message, warn(reason, "%s", message))
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return nil
	case corev1.PersistentVolumeReclaimRecycle:
		if recyclable(v) {
			return c.recycle(ctx, v)
		}
		return fail(reasonVolumeFailedRecycle, "No recycler plugin found for the volume!")
	case corev1.PersistentVolumeReclaimDelete:
		return c.remove(v, fail)
	}
	return fail(reasonVolumeUnknownReclaimPolicy, "Volume has unrecognized PersistentVolumeReclaimPolicy")
}

// remove leaves a volume to the provisioner that made it. One that nobody made nobody can delete: no directory of a node is removed
// from here, not even below /tmp, where others do that for tests on one machine.
func (c *controller) remove(v *corev1.PersistentVolume, fail func(reason, message string) error) error {
	maker, made := v.Annotations[storage.AnnDynamicallyProvisioned]
	switch {
	case metav1.HasAnnotation(v.ObjectMeta, storage.AnnMigratedTo), made && !inTree(maker):
		return nil
	case made:
		return fail(reasonVolumeFailedDelete, fmt.Sprintf("error getting deleter volume plugin for volume %q: no volume plugin matched name: %s", v.Name, maker))
	case v.Spec.HostPath != nil && !strings.HasPrefix(v.Spec.HostPath.Path, "/tmp/"):
		return fail(reasonVolumeFailedDelete, "host_path deleter only supports /tmp/.+ but received provided "+v.Spec.HostPath.Path)
	}
	return fail(reasonVolumeFailedDelete, fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
}
