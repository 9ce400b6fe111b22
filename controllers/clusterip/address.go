package clusterip

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/serviceip"
)

// syncAddress deletes an IPAddress of the allocator that no Service has, and has the Services looked at that have the
// address.
func (c *controller) syncAddress(ctx context.Context, name string) error {
	holders, err := c.holders.ByIndex(byAddress, name)
	if err != nil {
		return fmt.Errorf("look for services with address %s: %w", name, err)
	}
	ip, err := c.addresses.Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read address: %w", err)
	}
	for _, obj := range holders {
		if svc := obj.(*corev1.Service); ip == nil || !owned(ip, svc) {
			c.loop.Add(key{name: cache.MetaObjectToName(svc)})
		}
	}
	if ip == nil || !serviceip.Managed(ip) || ip.DeletionTimestamp != nil {
		return nil
	}
	by, ok := serviceip.Owner(ip)
	if !ok {
		c.recorder.Eventf(ip, corev1.EventTypeWarning, "IPAddressNotAllocated",
			"IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", ip.Name, ip.Spec.ParentRef)
		return settled(c.delete(ctx, ip))
	}
	svc, err := c.services.Services(by.Namespace).Get(by.Name)
	if err == nil && has(svc, ip.Name) {
		return nil
	}
	if left := grace - c.clock.Since(ip.CreationTimestamp.Time); left > 0 {
		return &engine.Retry{After: left, Why: "the Service may be about to be stored"}
	}
	// The informer may be behind.
	svc, err = c.client.CoreV1().Services(by.Namespace).Get(ctx, by.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		c.recorder.Eventf(ip, corev1.EventTypeWarning, "IPAddressNotAllocated",
			"IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", ip.Name, by.Namespace, by.Name)
	case err != nil:
		c.recorder.Eventf(ip, corev1.EventTypeWarning, "UnknownError", "Unable to get parent Service for IPAddress %s due to an unknown error", ip.Name)
		return fmt.Errorf("read service %s: %w", by, err)
	case has(svc, ip.Name):
		return nil
	default:
		c.recorder.Eventf(ip, corev1.EventTypeWarning, "IPAddressWrongReference",
			"IPAddress: %s for Service %s/%s has a wrong reference; cleaning up", ip.Name, by.Namespace, by.Name)
	}
	return settled(c.delete(ctx, ip))
}

// settled turns a conflict into nil: the event of the change queues the address again.
func settled(err error) error {
	if apierrors.IsConflict(err) {
		return nil
	}
	return err
}

// syncDefault keeps the ServiceCIDR that every cluster has. Its ranges are only ever extended by a second family; that it has
// others is told once.
func (c *controller) syncDefault(ctx context.Context) error {
	if len(c.defaults) == 0 {
		return nil
	}
	r, err := c.ranges.Get(serviceip.DefaultCIDR)
	switch {
	case apierrors.IsNotFound(err):
		r = &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: serviceip.DefaultCIDR}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: c.defaults}}
		_, err = c.client.NetworkingV1().ServiceCIDRs().Create(ctx, r, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil // the cache lags behind
		}
		if err != nil {
			c.recorder.Event(r, corev1.EventTypeWarning, "KubernetesDefaultServiceCIDRError", "The default ServiceCIDR can not be created")
			return fmt.Errorf("make the default service CIDR: %w", err)
		}
	case err != nil:
		return fmt.Errorf("read the default service CIDR: %w", err)
	case len(c.defaults) == 2 && slices.Equal(r.Spec.CIDRs, c.defaults[:1]):
		next := r.DeepCopy()
		next.Spec.CIDRs = c.defaults
		if _, err := c.client.NetworkingV1().ServiceCIDRs().Update(ctx, next, metav1.UpdateOptions{}); settled(err) != nil {
			c.recorder.Eventf(r, corev1.EventTypeWarning, "KubernetesDefaultServiceCIDRError",
				"The default ServiceCIDR can not be upgraded from %s to dual stack %v : %v", c.defaults[0], c.defaults, err)
			return fmt.Errorf("extend the default service CIDR: %w", err)
		}
	case !slices.Equal(r.Spec.CIDRs, c.defaults) && !c.mismatched:
		c.mismatched = true // this key is never worked on twice at once
		c.recorder.Eventf(r, corev1.EventTypeWarning, "KubernetesDefaultServiceCIDRInconsistent",
			"The default ServiceCIDR %v does not match the controller flag configurations %s", r.Spec.CIDRs, c.defaults)
	}
	return nil
}
