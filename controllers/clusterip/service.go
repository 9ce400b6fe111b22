package clusterip

import (
	"context"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/internal/serviceip"
)

// syncService sees to it that each address of a Service is recorded as its own.
func (c *controller) syncService(ctx context.Context, name cache.ObjectName) error {
	svc, err := c.services.Services(name.Namespace).Get(name.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read service: %w", err)
	}
	for _, ip := range clusterIPs(svc) {
		address, err := netip.ParseAddr(ip)
		if err != nil {
			c.recorder.Eventf(svc, corev1.EventTypeWarning, "ClusterIPNotValid", "Cluster IP %s is not a valid IP; please recreate Service", ip)
			continue
		}
		inside, err := c.inside(address, name)
		if err != nil {
			return err
		}
		if !inside {
			c.recorder.Eventf(svc, corev1.EventTypeWarning, "ClusterIPOutOfRange",
				"Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", serviceip.FamilyOf(address), address)
			continue
		}
		if err := c.repair(ctx, svc, address); err != nil {
			return err
		}
	}
	return nil
}

// inside says whether a ServiceCIDR has the address of a Service. One whose address none has is looked at again when there is another.
func (c *controller) inside(address netip.Addr, service cache.ObjectName) (bool, error) {
	c.mu.Lock()
	defer c.mu.Unlock() // no ServiceCIDR comes unnoticed between the two
	all, err := c.ranges.List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list service CIDRs: %w", err)
	}
	for _, r := range all {
		for _, p := range serviceip.Prefixes(r) {
			if serviceip.Contains(p, address) {
				return true, nil
			}
		}
	}
	c.outside[service] = true
	return false, nil
}

// repair makes the IPAddress of a Service's address where there is none or a wrong one.
func (c *controller) repair(ctx context.Context, svc *corev1.Service, address netip.Addr) error {
	ip, err := c.addresses.Get(address.String())
	if err == nil && owned(ip, svc) {
		return nil
	}
	// What is wrong is only believed of the API: of Services and addresses, the one informer may be ahead of the other.
	if ip, err = c.client.NetworkingV1().IPAddresses().Get(ctx, address.String(), metav1.GetOptions{}); err == nil && owned(ip, svc) {
		return nil
	}
	if now, err := c.client.CoreV1().Services(svc.Namespace).Get(ctx, svc.Name, metav1.GetOptions{}); apierrors.IsNotFound(err) || err == nil && !has(now, address.String()) {
		return nil // it is gone meanwhile, and its address with it
	} else if err != nil {
		return fmt.Errorf("read service %s/%s: %w", svc.Namespace, svc.Name, err)
	}
	family := serviceip.FamilyOf(address)
	if apierrors.IsNotFound(err) {
		c.recorder.Eventf(svc, corev1.EventTypeWarning, "ClusterIPNotAllocated", "Cluster IP [%v]: %s is not allocated; repairing", family, address)
		return c.record(ctx, svc, address)
	}
	if err != nil {
		c.recorder.Eventf(svc, corev1.EventTypeWarning, "UnknownError", "Unable to allocate ClusterIP [%v]: %s due to an unknown error", family, address)
		return fmt.Errorf("read address %s: %w", address, err)
	}
	by, ok := serviceip.Owner(ip)
	if ok && (by.Namespace != svc.Namespace || by.Name != svc.Name) {
		other, err := c.services.Services(by.Namespace).Get(by.Name)
		if err == nil && has(other, address.String()) {
			c.recorder.Eventf(svc, corev1.EventTypeWarning, "ClusterIPAlreadyAllocated",
				"Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family, address)
			return nil
		}
		ok = false
	}
	if !ok {
		c.recorder.Eventf(svc, corev1.EventTypeWarning, "ClusterIPNotAllocated",
			"the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", family, address, svc.Namespace, svc.Name)
	}
	if err := c.delete(ctx, ip); err != nil {
		return err
	}
	return c.record(ctx, svc, address)
}

func (c *controller) record(ctx context.Context, svc *corev1.Service, address netip.Addr) error {
	ip := serviceip.New(address, types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name})
	if _, err := c.client.NetworkingV1().IPAddresses().Create(ctx, ip, metav1.CreateOptions{}); err != nil {
		return fmt.Errorf("record address %s of service %s/%s: %w", address, svc.Namespace, svc.Name, err)
	}
	return nil
}

// delete deletes the IPAddress that was seen, and no other of its name.
func (c *controller) delete(ctx context.Context, ip *networkingv1.IPAddress) error {
	err := c.client.NetworkingV1().IPAddresses().Delete(ctx, ip.Name, metav1.DeleteOptions{
		Preconditions: &metav1.Preconditions{UID: &ip.UID, ResourceVersion: &ip.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete address %s: %w", ip.Name, err)
	}
	return nil
}
