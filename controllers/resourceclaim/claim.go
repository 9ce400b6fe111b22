package resourceclaim

import (
	"context"
	"fmt"
	"slices"

	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// syncClaim ends reservations of Pods that no longer need the claim. With the last one goes the allocation, so that the next user may
// be on another node, then the finalizer that kept the claim while it was allocated. A claim that was made for a Pod goes when the
// Pod is over, which may be long before the Pod is deleted.
func (c *controller) syncClaim(ctx context.Context, name cache.ObjectName) error {
	claim, err := c.claims.ResourceClaims(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read claim %s: %w", name, err)
	}
	users, err := c.users(ctx, claim)
	if err != nil {
		return err
	}
	if err := c.release(ctx, claim, users); err != nil {
		if apierrors.IsConflict(err) || apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("release claim %s: %w", name, err)
	}
	if len(users) > 0 {
		return nil
	}
	return c.deleteUnused(ctx, claim)
}

// users are those of the claim's users that still need it. Who is no Pod is not judged.
func (c *controller) users(ctx context.Context, claim *resourcev1.ResourceClaim) ([]resourcev1.ResourceClaimConsumerReference, error) {
	var stay []resourcev1.ResourceClaimConsumerReference
	for _, user := range claim.Status.ReservedFor {
		if user.APIGroup == "" && user.Resource == "pods" {
			needed, err := c.needed(ctx, claim.Namespace, user)
			if err != nil {
				return nil, err
			}
			if !needed {
				continue
			}
		}
		stay = append(stay, user)
	}
	return stay, nil
}

// needed says whether the user, a Pod, is there and not over. One that the informer does not know may be new: the scheduler reserves
// before it binds, so the API is asked.
func (c *controller) needed(ctx context.Context, namespace string, user resourcev1.ResourceClaimConsumerReference) (bool, error) {
	p, err := c.pods.Pods(namespace).Get(user.Name)
	if apierrors.IsNotFound(err) {
		p, err = c.client.CoreV1().Pods(namespace).Get(ctx, user.Name, metav1.GetOptions{})
	}
	if apierrors.IsNotFound(err) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read pod %s/%s: %w", namespace, user.Name, err)
	}
	return p.UID == user.UID && !over(p), nil
}

// release writes who still uses the claim. Writes are updates, not patches, so that they fail where somebody else has changed the
// claim meanwhile. A release that is interrupted between its two writes is ended when the claim is deleted.
func (c *controller) release(ctx context.Context, claim *resourcev1.ResourceClaim, users []resourcev1.ResourceClaimConsumerReference) error {
	ours := slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	left := len(users) < len(claim.Status.ReservedFor)
	unused := ours && len(users) == 0 && (left || claim.DeletionTimestamp != nil)
	if !left && !unused {
		return nil
	}
	claims := c.client.ResourceV1().ResourceClaims(claim.Namespace)
	claim = claim.DeepCopy()
	if left || claim.Status.Allocation != nil {
		claim.Status.ReservedFor = users
		if unused {
			claim.Status.Allocation = nil
		}
		var err error
		if claim, err = claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{}); err != nil {
			return err
		}
	}
	if !unused {
		return nil
	}
	claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
	_, err := claims.Update(ctx, claim, metav1.UpdateOptions{})
	return err
}

// deleteUnused deletes a claim that was made for a Pod which is over or has been replaced. The claims of Pods that are gone are the
// garbage collector's.
func (c *controller) deleteUnused(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	owner, id := owningPod(claim)
	if owner == "" || claim.DeletionTimestamp != nil {
		return nil
	}
	p, err := c.pods.Pods(claim.Namespace).Get(owner)
	if apierrors.IsNotFound(err) || err == nil && p.UID == id && !over(p) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod %s/%s: %w", claim.Namespace, owner, err)
	}
	err = c.client.ResourceV1().ResourceClaims(claim.Namespace).Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claim.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete unused generated claim %s/%s: %w", claim.Namespace, claim.Name, err)
	}
	return nil
}

// owningPod returns the Pod that a claim was made for, empty if it was for none.
func owningPod(claim *resourcev1.ResourceClaim) (string, types.UID) {
	if ref := metav1.GetControllerOfNoCopy(claim); ref != nil && ref.APIVersion == podKind.Version && ref.Kind == podKind.Kind {
		return ref.Name, ref.UID
	}
	return "", ""
}
