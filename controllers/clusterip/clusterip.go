// Package clusterip repairs the account of cluster IPs: each address of a Service is an IPAddress that names the Service, and
// each IPAddress of the allocator is one that a Service has. The API server takes an address before it stores the Service,
// and gives it back after the Service has gone; what a server leaves behind that is killed between, what users delete or
// change, and Services that share an address by whatever accident, are found here. It also keeps the default ServiceCIDR.
package clusterip

import (
	"context"
	"fmt"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/serviceip"
)

// Name is the component of upstream's events, and that of the service account in kube-system as which the controller acts.
const Name = "ipallocator-repair-controller"

// grace is for how long an IPAddress may be without its Service: that of a request, which takes the address first.
const grace = 60 * time.Second

// byAddress is the index of Services by their cluster IPs.
const byAddress = "ipallocator-repair-controller/address"

// key is what is looked at: a Service, an IPAddress, or, without a name, the default ServiceCIDR.
type key struct {
	address bool
	name    cache.ObjectName
}

type controller struct {
	client    kubernetes.Interface
	recorder  record.EventRecorder
	clock     clock.PassiveClock
	services  corelisters.ServiceLister
	holders   cache.Indexer
	addresses networkinglisters.IPAddressLister
	ranges    networkinglisters.ServiceCIDRLister
	defaults  []string
	loop      *engine.Queue[key]

	mu sync.Mutex
	// outside are Services with an address of no range; a ServiceCIDR that comes may have it.
	outside map[cache.ObjectName]bool
	// mismatched says that it has been told that the default ServiceCIDR is another.
	mismatched bool
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) { return newController(d, clock.RealClock{}) }

func newController(d engine.Deps, clock clock.PassiveClock) (engine.Runner, error) {
	services, addresses := d.Informers.Core().V1().Services(), d.Informers.Networking().V1().IPAddresses()
	ranges := d.Informers.Networking().V1().ServiceCIDRs()
	c := &controller{client: d.Client, recorder: d.Recorder, clock: clock, services: services.Lister(), holders: services.Informer().GetIndexer(),
		addresses: addresses.Lister(), ranges: ranges.Lister(), outside: map[cache.ObjectName]bool{}}
	for _, p := range d.ServiceCIDRs {
		c.defaults = append(c.defaults, p.String())
	}
	c.loop = &engine.Queue[key]{Name: Name, Workers: 2, Sync: c.sync}
	if err := services.Informer().AddIndexers(cache.Indexers{byAddress: func(obj any) ([]string, error) {
		return clusterIPs(obj.(*corev1.Service)), nil
	}}); err != nil {
		return nil, fmt.Errorf("index services by cluster IP: %w", err)
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{services.Informer(), cache.ResourceEventHandlerFuncs{AddFunc: c.onService, DeleteFunc: c.onServiceGone, UpdateFunc: func(old, obj any) {
			c.onServiceGone(old)
			c.onService(obj)
		}}},
		{addresses.Informer(), engine.OnAny(func(obj any) {
			if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
				c.loop.Add(key{address: true, name: name})
			}
		})},
		{ranges.Informer(), engine.OnAny(c.onRange)},
	} {
		seen, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return nil, fmt.Errorf("watch cluster IPs: %w", err)
		}
		c.loop.Synced = append(c.loop.Synced, seen.HasSyncedChecker())
	}
	c.loop.Add(key{})
	return c.loop, nil
}

// clusterIPs are the addresses that a Service has of the allocator.
func clusterIPs(svc *corev1.Service) []string {
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		return nil
	}
	return svc.Spec.ClusterIPs
}

func (c *controller) onService(obj any) {
	if svc, ok := obj.(*corev1.Service); ok && len(clusterIPs(svc)) > 0 {
		c.loop.Add(key{name: cache.MetaObjectToName(svc)})
	}
}

// onServiceGone looks at the addresses of a Service that may have let go of them, when the API server has had the time to give
// them back.
func (c *controller) onServiceGone(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	svc, ok := obj.(*corev1.Service)
	if !ok {
		return
	}
	for _, ip := range clusterIPs(svc) {
		now, err := c.services.Services(svc.Namespace).Get(svc.Name)
		if err == nil && has(now, ip) {
			continue // the usual case, an update of something else
		}
		c.loop.AddAfter(key{address: true, name: cache.ObjectName{Name: ip}}, grace)
	}
}

// onRange looks at the default ServiceCIDR, and at the Services whose addresses were of none.
func (c *controller) onRange(obj any) {
	if name, err := cache.DeletionHandlingObjectToName(obj); err == nil && name.Name == serviceip.DefaultCIDR {
		c.loop.Add(key{})
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for name := range c.outside {
		c.loop.Add(key{name: name})
	}
	clear(c.outside)
}

func (c *controller) sync(ctx context.Context, k key) error {
	switch {
	case k.address:
		return c.syncAddress(ctx, k.name.Name)
	case k.name.Name != "":
		return c.syncService(ctx, k.name)
	}
	return c.syncDefault(ctx)
}

// has says whether the Service has the address.
func has(svc *corev1.Service, address string) bool {
	want, err := netip.ParseAddr(address)
	if err != nil {
		return false
	}
	for _, ip := range clusterIPs(svc) {
		if a, err := netip.ParseAddr(ip); err == nil && a == want {
			return true
		}
	}
	return false
}

// owned says whether the IPAddress says, as the allocator writes it, that the Service has it.
func owned(ip *networkingv1.IPAddress, svc *corev1.Service) bool {
	by, ok := serviceip.Owner(ip)
	return ok && by.Namespace == svc.Namespace && by.Name == svc.Name && serviceip.Labelled(ip)
}
