package persistentvolume

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	storage "k8s.io/component-helpers/storage/volume"
)

// inTree says whether a provisioner is, or was, one of Kubernetes' own: none of those is here.
func inTree(provisioner string) bool { return strings.HasPrefix(provisioner, "kubernetes.io/") }

// provision asks the provisioner of the claim's class for a volume, by an annotation that it watches for.
func (c *controller) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	name := storage.GetPersistentVolumeClaimClass(claim)
	class, err := c.classes.Get(name)
	if apierrors.IsNotFound(err) {
		c.event(claim, warn(reasonProvisioningFailed, "storageclass.storage.k8s.io %q not found", name))
		return c.setClaim(ctx, claim, corev1.ClaimPending, nil, nil)
	}
	if err != nil {
		return fmt.Errorf("read storage class: %w", err)
	}
	if inTree(class.Provisioner) {
		c.event(claim, warn(reasonProvisioningFailed, "no volume plugin matched name: %s", class.Provisioner))
		return c.setClaim(ctx, claim, corev1.ClaimPending, nil, nil)
	}
	if claim, err = c.nameProvisioner(ctx, claim, class.Provisioner); err != nil {
		return err
	}
	c.event(claim, &note{corev1.EventTypeNormal, reasonExternalProvisioning, fmt.Sprintf(
		"Waiting for a volume to be created either by the external provisioner '%s' or manually by the system administrator. "+
			"If volume creation is delayed, please verify that the provisioner is running and correctly registered.", class.Provisioner)})
	return c.setClaim(ctx, claim, corev1.ClaimPending, nil, nil)
}

// nameProvisioner writes into the claim who is to make its volume, under today's name and under the one of old that some
// provisioners watch.
func (c *controller) nameProvisioner(ctx context.Context, claim *corev1.PersistentVolumeClaim, provisioner string) (*corev1.PersistentVolumeClaim, error) {
	if claim.Annotations[storage.AnnStorageProvisioner] == provisioner && claim.Annotations[storage.AnnBetaStorageProvisioner] == provisioner {
		return claim, nil
	}
	claim = claim.DeepCopy()
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storage.AnnStorageProvisioner, provisioner)
	metav1.SetMetaDataAnnotation(&claim.ObjectMeta, storage.AnnBetaStorageProvisioner, provisioner)
	now, err := c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("name provisioner of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	c.wrote(now, c.claimIndex, now.ResourceVersion)
	return now, nil
}
