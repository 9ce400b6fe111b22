package localpath

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/peapod/peapod/internal/localpath"
)

// syncVolume keeps the finalizer on volumes whose data go with them, deletes those that are released, and lets those go
// whose node is no more.
func (c *controller) syncVolume(ctx context.Context, name string) error {
	v, err := c.volumes.Get(name)
	if apierrors.IsNotFound(err) || err == nil && !localpath.Made(v) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read volume: %w", err)
	}
	removes := v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete
	held := slices.Contains(v.Finalizers, localpath.Finalizer)
	switch {
	case held && !removes: // the user has decided to keep the data
		return c.finalizers(ctx, v, slices.DeleteFunc(slices.Clone(v.Finalizers), isOurs))
	case !held && removes && v.DeletionTimestamp == nil:
		return c.finalizers(ctx, v, append(slices.Clone(v.Finalizers), localpath.Finalizer))
	case removes && v.DeletionTimestamp == nil && v.Status.Phase == corev1.VolumeReleased:
		// Of the version that was looked at: its policy may have been changed since.
		err := c.client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{
			Preconditions: &metav1.Preconditions{UID: &v.UID, ResourceVersion: &v.ResourceVersion}})
		return settled(err, "delete volume %s", v.Name)
	case held && localpath.Doomed(v):
		return c.orphan(ctx, v)
	}
	return nil
}

func isOurs(finalizer string) bool { return finalizer == localpath.Finalizer }

// orphan lets a volume go whose directory nobody can remove: it went with its node. While there is a node it is the node's
// to do.
func (c *controller) orphan(ctx context.Context, v *corev1.PersistentVolume) error {
	node := v.Labels[localpath.NodeLabel]
	if _, err := c.nodes.Get(node); err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	// The informer may be behind.
	if _, err := c.client.CoreV1().Nodes().Get(ctx, node, metav1.GetOptions{}); err == nil || !apierrors.IsNotFound(err) {
		return err
	}
	return c.finalizers(ctx, v, slices.DeleteFunc(slices.Clone(v.Finalizers), isOurs))
}

func (c *controller) finalizers(ctx context.Context, v *corev1.PersistentVolume, list []string) error {
	v = v.DeepCopy()
	v.Finalizers = list
	_, err := c.client.CoreV1().PersistentVolumes().Update(ctx, v, metav1.UpdateOptions{})
	return settled(err, "change finalizers of volume %s", v.Name)
}

// settled turns errors into nil that events will tell more about, and words others.
func settled(err error, format string, args ...any) error {
	if err == nil || apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
		return nil
	}
	return fmt.Errorf(format+": %w", append(args, err)...)
}
