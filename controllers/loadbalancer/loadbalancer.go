// Package loadbalancer answers Services of type LoadBalancer with the addresses of the cluster's own nodes: no cloud is
// needed, since every node's service proxy takes what comes for such an address and port. Two Services cannot have the
// same port of the nodes: the older one has it, the other stays pending. A port on which a process of a node listens stays
// with that process: the node's service proxy leaves it alone, says so in an event HostPortInUse of the Service, and the node
// in an annotation (package refusedports). The status leaves the node out until the port is free.
//
// A Service that has a load balancer has upstream's finalizer, too: it is not gone, and of no other type, before it is seen that it has
// none any more.
//
// A Service with externalTrafficPolicy Local is answered only where it has endpoints, so that its status names those nodes alone, or
// all while there is none. Endpoints that end but still serve count. A status has room for maxAddresses of each family: more help no client, and would be written anew for each
// node that comes or goes. Only the addresses that are named are answered.
//
// A Service with a loadBalancerClass belongs to somebody else's controller and is left alone.
package loadbalancer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/refusedports"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap
// role of the same name fits.
const Name = "service-controller"

// byBalance is the index of Services by what they have to do with load balancers.
const (
	byBalance = "service-controller/balance"
	wanted    = "wanted"
	over      = "over" // it had one, and is of another type by now
	none      = ""
)

func balance(svc *corev1.Service) string {
	switch {
	case svc.Spec.Type == corev1.ServiceTypeLoadBalancer:
		return wanted
	case len(svc.Status.LoadBalancer.Ingress) > 0 || marked(svc):
		return over
	}
	return none
}

type controller struct {
	client   kubernetes.Interface
	services cache.Indexer
	slices   discoverylisters.EndpointSliceLister
	pool     pool
	recorder record.EventRecorder
	// refused are the Services that have been told that another one has their port. Only the one worker uses it.
	refused map[types.UID]bool
}

// New returns the controller. Since Services compete for ports it decides for all at once, under one key.
func New(d engine.Deps) (engine.Runner, error) {
	services, nodes := d.Informers.Core().V1().Services(), d.Informers.Core().V1().Nodes()
	endpoints := d.Informers.Discovery().V1().EndpointSlices()
	if err := services.Informer().AddIndexers(cache.Indexers{byBalance: func(obj any) ([]string, error) {
		return []string{balance(obj.(*corev1.Service))}, nil
	}}); err != nil {
		return nil, fmt.Errorf("index services: %w", err)
	}
	c := &controller{client: d.Client, services: services.Informer().GetIndexer(), slices: endpoints.Lister(), recorder: d.Recorder, refused: map[types.UID]bool{}}
	all := cache.ObjectName{Name: "services"}
	loop := &engine.Loop{Name: Name, Sync: func(ctx context.Context, _ cache.ObjectName) error { return c.sync(ctx) }}
	onService, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if concerns(obj) {
				loop.Add(all)
			}
		},
		UpdateFunc: func(old, obj any) {
			if concerns(old) || concerns(obj) {
				loop.Add(all)
			}
		},
		DeleteFunc: func(obj any) {
			if concerns(obj) {
				loop.Add(all)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch services: %w", err)
	}
	nodeSet := func(obj any) {
		if c.pool.set(obj.(*corev1.Node)) {
			loop.Add(all)
		}
	}
	onNode, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    nodeSet,
		UpdateFunc: func(_, obj any) { nodeSet(obj) },
		DeleteFunc: func(obj any) {
			if name, err := cache.DeletionHandlingObjectToName(obj); err == nil && c.pool.remove(name.Name) {
				loop.Add(all)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch nodes: %w", err)
	}
	onSlice, err := endpoints.Informer().AddEventHandler(c.onSlice(func() { loop.Add(all) }))
	if err != nil {
		return nil, fmt.Errorf("watch endpoint slices: %w", err)
	}
	loop.Synced = []cache.DoneChecker{onService.HasSyncedChecker(), onNode.HasSyncedChecker(), onSlice.HasSyncedChecker()}
	return loop, nil
}

// concerns says whether the object is a Service that has or wants a load balancer.
func concerns(obj any) bool {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	svc, ok := obj.(*corev1.Service)
	return ok && balance(svc) != none
}

func (c *controller) sync(ctx context.Context) error {
	objs, err := c.services.ByIndex(byBalance, wanted)
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	former, err := c.services.ByIndex(byBalance, over)
	if err != nil {
		return fmt.Errorf("list services: %w", err)
	}
	var balanced []*corev1.Service
	for _, obj := range objs {
		switch svc := obj.(*corev1.Service); {
		case !refusedports.Ours(svc):
		case svc.DeletionTimestamp != nil:
			former = append(former, svc)
		default:
			balanced = append(balanced, svc)
		}
	}
	var errs []error
	refused := map[types.UID]bool{}
	for svc, mine := range assign(balanced) {
		want := corev1.LoadBalancerStatus{}
		if mine {
			want = c.pool.ingress(svc, c.serving(svc))
		} else if refused[svc.UID] = true; !c.refused[svc.UID] {
			c.recorder.Event(svc, corev1.EventTypeWarning, "SyncLoadBalancerFailed",
				"Error syncing load balancer: another service has one of the ports on the nodes' addresses")
		}
		errs = append(errs, c.ensure(ctx, svc, want))
	}
	c.refused = refused
	for _, obj := range former {
		errs = append(errs, c.remove(ctx, obj.(*corev1.Service)))
	}
	return errors.Join(errs...)
}

// assign says for each Service whether it has its ports for itself.
func assign(services []*corev1.Service) map[*corev1.Service]bool {
	slices.SortFunc(services, func(a, b *corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time),
			strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	type port struct {
		protocol corev1.Protocol
		number   int32
	}
	taken := map[port]bool{}
	mine := map[*corev1.Service]bool{}
	for _, svc := range services {
		free := true
		for _, p := range svc.Spec.Ports {
			free = free && !taken[port{p.Protocol, p.Port}]
		}
		mine[svc] = free
		if !free {
			continue
		}
		for _, p := range svc.Spec.Ports {
			taken[port{p.Protocol, p.Port}] = true
		}
	}
	return mine
}
