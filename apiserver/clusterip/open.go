package clusterip

import (
	"context"
	"fmt"
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"github.com/peapod/peapod/api/resource"
	"github.com/peapod/peapod/internal/serviceip"
)

// Open makes the default ServiceCIDR where there is none, and reads which addresses are taken. It returns the allocator
// for use while the server starts: its Hold takes an address for a stored Service that lost its own, or never had one
// (a store of a version that kept account otherwise). All Services must be held before the first write.
func (a *Allocator) Open(ctx context.Context) (resource.IPAllocator, error) {
	if len(a.defaults) == 0 {
		return a, nil
	}
	ctx = request.WithNamespace(ctx, metav1.NamespaceNone)
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: serviceip.DefaultCIDR}}
	for _, p := range a.defaults {
		c.Spec.CIDRs = append(c.Spec.CIDRs, p.String())
	}
	_, err := a.ranges().Get(ctx, c.Name, &metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		_, err = a.ranges().Create(ctx, c, rest.ValidateAllObjectFunc, &metav1.CreateOptions{})
	}
	if err != nil && !apierrors.IsAlreadyExists(err) {
		return nil, fmt.Errorf("make service CIDR %s: %w", c.Name, err)
	}
	taken, err := a.taken(ctx)
	if err != nil {
		return nil, err
	}
	return &opening{Allocator: a, ctx: ctx, taken: taken}, nil
}

// opening is an Allocator while the server starts.
type opening struct {
	*Allocator
	ctx   context.Context
	taken map[string]bool
}

// Hold implements resource.IPAllocator.
func (o *opening) Hold(owner types.NamespacedName, ip string) error {
	addr, err := netip.ParseAddr(ip)
	if err != nil {
		return fmt.Errorf("hold cluster IP %q: %w", ip, err)
	}
	if o.taken[addr.String()] {
		return nil
	}
	if _, err := o.take(o.ctx, addr, owner, false); err != nil {
		return err
	}
	o.taken[addr.String()] = true
	return nil
}

// Hold implements resource.IPAllocator: while the server runs, the addresses of stored Services are repaired by a controller.
func (a *Allocator) Hold(types.NamespacedName, string) error { return nil }
