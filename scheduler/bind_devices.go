package scheduler

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/retry"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/plugins/dynamicresources"
)

// bindDevices has the claims of the Pod allocated and reserved as planned, and waits until their devices are ready.
func (s *Scheduler) bindDevices(ctx context.Context, node string, w *bindWait) error {
	if w.devices == nil {
		return nil
	}
	for i := range w.devices.Claims {
		c := &w.devices.Claims[i]
		if resourceclaim.IsReservedForPod(w.pod.Pod, c.Claim, false) {
			w.reserved = append(w.reserved, c.Claim) // by a try that was interrupted
			continue
		}
		if err := s.bindClaim(ctx, w, c); err != nil {
			return err
		}
	}
	return s.awaitDevices(ctx, node, w)
}

// bindClaim makes the Pod a user of the claim, which is made and allocated before if that is planned.
func (s *Scheduler) bindClaim(ctx context.Context, w *bindWait, c *framework.PlannedClaim) error {
	claims := s.cfg.Client.ResourceV1().ResourceClaims(w.pod.Namespace)
	if c.Extended {
		made, err := s.makeExtended(ctx, w, c)
		if err != nil {
			return err
		}
		c.Claim = made
		w.reserved = append(w.reserved, made) // so that it is deleted again if what follows fails
	}
	claim, fresh := c.Claim.DeepCopy(), true
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if !fresh {
			now, err := claims.Get(ctx, c.Claim.Name, metav1.GetOptions{})
			if err != nil {
				return fmt.Errorf("get updated claim %s after conflict: %w", klog.KObj(c.Claim), err)
			}
			claim = now
		}
		fresh = false
		written, err := s.writeClaim(ctx, w.pod, claim, c)
		if err == nil {
			claim = written
		}
		return err
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	devices := s.cluster.Known().Devices
	devices.Wrote(claim)
	if !c.Extended { // its event may be to come, and what is assumed must count until then
		devices.Release(claim.UID)
	}
	s.mu.Unlock()
	c.Claim = claim
	if !c.Extended {
		w.reserved = append(w.reserved, claim)
		return nil
	}
	return s.patchStatus(ctx, w.pod, map[string]any{"extendedResourceClaimStatus": corev1.PodExtendedResourceClaimStatus{
		ResourceClaimName: claim.Name, RequestMappings: w.devices.Mappings}})
}

// makeExtended makes the claim for extended resources.
func (s *Scheduler) makeExtended(ctx context.Context, w *bindWait, c *framework.PlannedClaim) (*resourcev1.ResourceClaim, error) {
	made := c.Claim.DeepCopy()
	made.UID = ""
	made, err := s.cfg.Client.ResourceV1().ResourceClaims(made.Namespace).Create(ctx, made, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("create claim for extended resources %s: %w", klog.KObj(w.pod.Pod), err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.Known().Devices.Made(w.pod.UID, c.Claim, made)
	return made, nil
}

// writeClaim writes allocation and reservation to claim, which is the caller's. The finalizer comes first: an allocated claim must not go
// while it is used.
func (s *Scheduler) writeClaim(ctx context.Context, pod *framework.Pod, claim *resourcev1.ResourceClaim, c *framework.PlannedClaim) (*resourcev1.ResourceClaim, error) {
	claims, name := s.cfg.Client.ResourceV1().ResourceClaims(claim.Namespace), klog.KObj(claim)
	if claim.UID != c.Claim.UID || claim.DeletionTimestamp != nil {
		return nil, fmt.Errorf("claim %s got deleted in the meantime", name)
	}
	switch {
	case c.Allocation == nil && claim.Status.Allocation == nil:
		return nil, fmt.Errorf("claim %s got deallocated elsewhere in the meantime", name)
	case c.Allocation != nil && claim.Status.Allocation != nil:
		return nil, fmt.Errorf("claim %s got allocated elsewhere in the meantime", name)
	case c.Allocation != nil:
		if !slices.Contains(claim.Finalizers, resourcev1.Finalizer) {
			claim.Finalizers = append(claim.Finalizers, resourcev1.Finalizer)
			written, err := claims.Update(ctx, claim, metav1.UpdateOptions{})
			if err != nil {
				return nil, fmt.Errorf("add finalizer to claim %s: %w", name, err)
			}
			claim = written.DeepCopy()
		}
		claim.Status.Allocation = c.Allocation.DeepCopy()
	}
	if claim.Status.Allocation.AllocationTimestamp == nil {
		now := metav1.NewTime(s.cfg.Clock.Now())
		claim.Status.Allocation.AllocationTimestamp = &now
	}
	claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
	written, err := claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	switch {
	case err == nil:
		return written, nil
	case c.Allocation != nil:
		return nil, fmt.Errorf("add allocation and reservation to claim %s: %w", name, err)
	}
	return nil, fmt.Errorf("add reservation to claim %s: %w", name, err)
}

// awaitDevices waits until the drivers have made those devices ready that have to be before the Pod is bound.
func (s *Scheduler) awaitDevices(ctx context.Context, node string, w *bindWait) error {
	if !slices.ContainsFunc(w.devices.Claims, func(c framework.PlannedClaim) bool { return dynamicresources.Conditional(c.Claim) }) {
		return nil
	}
	s.cfg.Recorder.Eventf(w.pod.Pod, nil, corev1.EventTypeNormal, "BindingConditionsPending", "Scheduling",
		"waiting for binding conditions for device on node %s", node)
	timer := s.cfg.Clock.NewTimer(s.cfg.DeviceBindTimeout)
	defer timer.Stop()
	for {
		deadline, err := s.devicesReady(w)
		if err != nil || deadline.IsZero() {
			return err
		}
		timer.Reset(deadline.Sub(s.cfg.Clock.Now()))
		select {
		case <-w.news:
		case <-w.gone:
			return errPodGone
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-timer.C():
		}
	}
}

// devicesReady returns until when the devices should be ready; zero if they are. An error says that they will not be.
func (s *Scheduler) devicesReady(w *bindWait) (deadline time.Time, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Clock.Now()
	for _, c := range w.devices.Claims {
		claim := s.cluster.Known().Devices.Claim(framework.ClaimKey(c.Claim))
		if claim == nil && c.Extended {
			claim = c.Claim // its event is to come
		}
		if claim == nil || claim.UID != c.Claim.UID {
			return time.Time{}, fmt.Errorf("claim %s got deleted in the meantime", klog.KObj(c.Claim))
		}
		ready, err := dynamicresources.Ready(claim)
		if err != nil {
			return time.Time{}, err
		}
		if ready {
			continue
		}
		at, limited := dynamicresources.Deadline(claim, s.cfg.DeviceBindTimeout)
		if !limited {
			return time.Time{}, fmt.Errorf("claim %s got deallocated elsewhere in the meantime", klog.KObj(c.Claim))
		}
		if !at.After(now) {
			return time.Time{}, fmt.Errorf("%w: claim=%s", dynamicresources.ErrBindingTimeout, claim.Name)
		}
		if deadline.IsZero() || at.Before(deadline) {
			deadline = at
		}
	}
	return deadline, nil
}

// unreserve takes back what bindDevices has written for a Pod that is not bound: it is no user of its claims any more, and a claim
// without users loses its devices, as it would if the Pod had run. The claim for extended resources is deleted.
func (s *Scheduler) unreserve(ctx context.Context, w *bindWait) {
	for _, claim := range w.reserved {
		var err error
		if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" {
			err = s.deleteExtended(ctx, claim)
		} else {
			err = s.changeClaim(ctx, claim, func(now *resourcev1.ResourceClaim) (*resourcev1.ResourceClaim, error) {
				now.Status.ReservedFor = slices.DeleteFunc(now.Status.ReservedFor, func(r resourcev1.ResourceClaimConsumerReference) bool { return r.UID == w.pod.UID })
				if len(now.Status.ReservedFor) == 0 {
					now.Status.Allocation, now.Status.Devices = nil, nil
				}
				return s.cfg.Client.ResourceV1().ResourceClaims(now.Namespace).UpdateStatus(ctx, now, metav1.UpdateOptions{})
			})
		}
		if err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Take back the reservation of a claim failed", "pod", klog.KObj(w.pod.Pod), "claim", klog.KObj(claim))
		}
	}
}

// changeClaim writes a claim, and again as it has become if it was changed meanwhile. One that has gone is no error.
func (s *Scheduler) changeClaim(ctx context.Context, claim *resourcev1.ResourceClaim, write func(*resourcev1.ResourceClaim) (*resourcev1.ResourceClaim, error)) error {
	now, fresh := claim, true
	err := retry.RetryOnConflict(retry.DefaultRetry, func() error {
		if !fresh {
			var err error
			if now, err = s.cfg.Client.ResourceV1().ResourceClaims(claim.Namespace).Get(ctx, claim.Name, metav1.GetOptions{}); err != nil {
				return err
			}
		}
		fresh = false
		if now.UID != claim.UID {
			return nil
		}
		written, err := write(now.DeepCopy())
		if err == nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.cluster.Known().Devices.Wrote(written)
		}
		return err
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

// deleteExtended deletes a claim that was made here, after the finalizer, which is from here too.
func (s *Scheduler) deleteExtended(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	claims := s.cfg.Client.ResourceV1().ResourceClaims(claim.Namespace)
	err := s.changeClaim(ctx, claim, func(now *resourcev1.ResourceClaim) (*resourcev1.ResourceClaim, error) {
		if !slices.Contains(now.Finalizers, resourcev1.Finalizer) {
			return now, nil
		}
		now.Finalizers = slices.DeleteFunc(now.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
		return claims.Update(ctx, now, metav1.UpdateOptions{})
	})
	if err != nil {
		return fmt.Errorf("remove finalizer of claim %s: %w", klog.KObj(claim), err)
	}
	err = claims.Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(claim.UID))})
	if err != nil && !gone(err) {
		return fmt.Errorf("delete claim %s: %w", klog.KObj(claim), err)
	}
	return nil
}

// unblock takes a claim back that keeps a Pod from every node. The change wakes the Pod; if there is none, it is tried again.
func (s *Scheduler) unblock(ctx context.Context, pod *framework.Pod, claim *resourcev1.ResourceClaim) {
	var err error
	if claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" {
		err = s.deleteExtended(ctx, claim)
	} else {
		// As it was decided on: if it was changed meanwhile, it may not be in the way any more.
		idle := claim.DeepCopy()
		idle.Status.ReservedFor, idle.Status.Allocation, idle.Status.Devices = nil, nil, nil
		_, err = s.cfg.Client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, idle, metav1.UpdateOptions{})
	}
	if err == nil || ctx.Err() != nil {
		return
	}
	if !gone(err) {
		klog.FromContext(ctx).Error(err, "Take back a claim that blocks a Pod failed", "pod", klog.KObj(pod.Pod), "claim", klog.KObj(claim))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.queue.Retry(pod.UID)
	s.signal()
}
