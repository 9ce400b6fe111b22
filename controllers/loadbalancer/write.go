package loadbalancer

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// finalizer marks a Service that has a load balancer.
const finalizer = "service.kubernetes.io/load-balancer-cleanup"

func marked(svc *corev1.Service) bool { return slices.Contains(svc.Finalizers, finalizer) }

// ensure gives a Service the status, and the finalizer.
func (c *controller) ensure(ctx context.Context, svc *corev1.Service, want corev1.LoadBalancerStatus) error {
	next := svc.DeepCopy()
	next.Status.LoadBalancer = want
	if !marked(svc) {
		next.Finalizers = append(next.Finalizers, finalizer)
	}
	comes := len(svc.Status.LoadBalancer.Ingress) == 0 && len(want.Ingress) > 0
	if comes {
		c.recorder.Event(svc, corev1.EventTypeNormal, "EnsuringLoadBalancer", "Ensuring load balancer")
	}
	written, err := c.write(ctx, svc, next)
	switch {
	case !written || len(want.Ingress) == 0:
	case comes:
		c.recorder.Event(svc, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
	default:
		c.recorder.Event(svc, corev1.EventTypeNormal, "UpdatedLoadBalancer", "Updated load balancer with new hosts")
	}
	return err
}

// remove takes both from a Service that is not to have a load balancer any more.
func (c *controller) remove(ctx context.Context, svc *corev1.Service) error {
	next := svc.DeepCopy()
	next.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	next.Finalizers = slices.DeleteFunc(next.Finalizers, func(f string) bool { return f == finalizer })
	if marked(svc) {
		c.recorder.Event(svc, corev1.EventTypeNormal, "DeletingLoadBalancer", "Deleting load balancer")
	}
	written, err := c.write(ctx, svc, next)
	if written && marked(svc) {
		c.recorder.Event(svc, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	}
	return err
}

// write stores what differs, by the subresource that the controller may write, and says whether there was something. The API lets a
// write of the status change metadata.
func (c *controller) write(ctx context.Context, svc, next *corev1.Service) (bool, error) {
	if equality.Semantic.DeepEqual(svc.Status.LoadBalancer, next.Status.LoadBalancer) && len(svc.Finalizers) == len(next.Finalizers) {
		return false, nil
	}
	_, err := c.client.CoreV1().Services(svc.Namespace).UpdateStatus(ctx, next, metav1.UpdateOptions{})
	if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
		return false, nil // the event of that change comes
	}
	if err != nil {
		return false, fmt.Errorf("write load balancer of service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	return true, nil
}
