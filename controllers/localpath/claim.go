package localpath

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/reference"
	storage "k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/claimgrowth"
	"github.com/peapod/peapod/internal/localpath"
)

// syncClaim makes the volume that the claim asks for, or has the one that it has grow. What is wrong with the claim or its class cannot be put right in them:
// it is told once, and not tried again.
func (c *controller) syncClaim(ctx context.Context, name cache.ObjectName) error {
	claim, err := c.claims.PersistentVolumeClaims(name.Namespace).Get(name.Name)
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("read claim: %w", err)
	case claimgrowth.Wanted(claim):
		return c.grow(ctx, claim)
	case !asks(claim):
		return nil
	}
	class, err := c.classes.Get(storage.GetPersistentVolumeClaimClass(claim))
	if apierrors.IsNotFound(err) || err == nil && class.Provisioner != localpath.Provisioner {
		return nil // the class's event queues the claim
	}
	if err != nil {
		return fmt.Errorf("read storage class: %w", err)
	}
	if _, err := c.volumes.Get(volumeName(claim)); err == nil {
		return nil // made, and the binder's
	}
	if err := provisionable(claim, class); err != nil {
		c.failed(claim, class, err)
		return nil
	}
	node, err := c.node(ctx, claim, class)
	if err != nil || node == nil {
		return err
	}
	dir := node.Annotations[localpath.DirectoryAnnotation]
	if !filepath.IsAbs(dir) || filepath.Clean(dir) != dir {
		c.failed(claim, class, fmt.Errorf("node %q offers no directory for volumes: its annotation %s is %q", node.Name, localpath.DirectoryAnnotation, dir))
		return nil // the node's event queues the claim
	}
	return c.provision(ctx, claim, class, node, dir)
}

func volumeName(claim *corev1.PersistentVolumeClaim) string { return "pvc-" + string(claim.UID) }

func (c *controller) failed(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, err error) {
	c.recorder.Eventf(claim, corev1.EventTypeWarning, "ProvisioningFailed", "failed to provision volume with StorageClass %q: %v", class.Name, err)
}

// provisionable returns why a directory cannot be what the claim wants; nil if it can.
func provisionable(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) error {
	for _, mode := range claim.Spec.AccessModes {
		if mode != corev1.ReadWriteOnce && mode != corev1.ReadWriteOncePod {
			return fmt.Errorf("access mode %s is not supported: a directory of one node is %s or %s", mode, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		}
	}
	switch {
	case ptr.Deref(claim.Spec.VolumeMode, corev1.PersistentVolumeFilesystem) != corev1.PersistentVolumeFilesystem:
		return fmt.Errorf("%s does not support block volume provisioning", localpath.Provisioner)
	case claim.Spec.Selector != nil:
		return errors.New("claim Selector is not supported")
	case claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil:
		return errors.New("claim dataSource is not supported: create the claim without it and copy the data")
	case ptr.Deref(claim.Spec.VolumeAttributesClassName, "") != "":
		return errors.New("claim volumeAttributesClassName is not supported")
	case len(class.Parameters) > 0:
		return fmt.Errorf("invalid parameters %q: %s takes none", slices.Sorted(maps.Keys(class.Parameters)), localpath.Provisioner)
	}
	return nil
}

// node is the one on which the volume is to be, nil where that is not known. Where it is gone, the scheduler is asked for
// another.
func (c *controller) node(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass) (*corev1.Node, error) {
	name := claim.Annotations[storage.AnnSelectedNode]
	if name == "" {
		c.failed(claim, class, fmt.Errorf("no node was chosen for the volume: set volumeBindingMode of a class with provisioner %s to %s",
			localpath.Provisioner, storagev1.VolumeBindingWaitForFirstConsumer))
		return nil, nil
	}
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) { // the informer may be behind
		node, err = c.client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	}
	if err == nil || !apierrors.IsNotFound(err) {
		return node, err
	}
	c.failed(claim, class, fmt.Errorf("node %q is gone", name))
	claim = claim.DeepCopy()
	delete(claim.Annotations, storage.AnnSelectedNode)
	_, err = c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsConflict(err) && !apierrors.IsNotFound(err) {
		return nil, fmt.Errorf("ask for another node for claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil, nil
}

// provision makes the volume. Its name is the claim's UID, so that doing it again makes no second one.
func (c *controller) provision(ctx context.Context, claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, node *corev1.Node, dir string) error {
	c.recorder.Eventf(claim, corev1.EventTypeNormal, "Provisioning", "External provisioner is provisioning volume for claim %q", claim.Namespace+"/"+claim.Name)
	ref, err := reference.GetReference(scheme.Scheme, claim)
	if err != nil {
		return fmt.Errorf("refer to claim: %w", err)
	}
	name := volumeName(claim)
	v := &corev1.PersistentVolume{
		ObjectMeta: metav1.ObjectMeta{
			Name: name, Labels: map[string]string{localpath.NodeLabel: node.Name},
			Annotations: map[string]string{storage.AnnDynamicallyProvisioned: localpath.Provisioner},
		},
		Spec: corev1.PersistentVolumeSpec{
			Capacity:    corev1.ResourceList{corev1.ResourceStorage: claim.Spec.Resources.Requests[corev1.ResourceStorage]},
			AccessModes: claim.Spec.AccessModes, ClaimRef: ref, StorageClassName: class.Name, MountOptions: class.MountOptions,
			PersistentVolumeReclaimPolicy: ptr.Deref(class.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete),
			VolumeMode:                    ptr.To(corev1.PersistentVolumeFilesystem),
			PersistentVolumeSource:        corev1.PersistentVolumeSource{Local: &corev1.LocalVolumeSource{Path: localpath.Path(dir, name)}},
			NodeAffinity: &corev1.VolumeNodeAffinity{Required: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{
				MatchExpressions: []corev1.NodeSelectorRequirement{{
					Key: corev1.LabelHostname, Operator: corev1.NodeSelectorOpIn, Values: []string{hostname(node)}}}}}}},
		},
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete {
		v.Finalizers = []string{localpath.Finalizer}
	}
	_, err = c.client.CoreV1().PersistentVolumes().Create(ctx, v, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		return nil
	case err != nil:
		c.failed(claim, class, err)
		return fmt.Errorf("make volume of claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	c.recorder.Eventf(claim, corev1.EventTypeNormal, "ProvisioningSucceeded", "Successfully provisioned volume %s", name)
	return nil
}

// hostname is the label by which the volume names its node; a kubelet sets it.
func hostname(n *corev1.Node) string {
	if h := n.Labels[corev1.LabelHostname]; h != "" {
		return h
	}
	return n.Name
}
