// Package endpointslice keeps the EndpointSlices of Services that select Pods: which addresses answer for each of them,
// and in which condition they are (KEP-752, KEP-1672). How endpoints are spread over slices is decided by
// k8s.io/endpointslice.
package endpointslice

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/topologycache"
	"k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap
// role of the same name fits.
const Name = "endpointslice-controller"

const (
	// manager is the value of the label by which a slice says who keeps it; it is part of the API.
	manager = "endpointslice-controller.k8s.io"
	// maxEndpoints is the size of a slice, as upstream's default.
	maxEndpoints = 100
	workers      = 5
	// byService is the index of slices by namespace and name of their Service.
	byService = "endpointslice-controller/service"
)

type controller struct {
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     cache.Indexer
	loop       *engine.Loop
	tracker    *util.EndpointSliceTracker
	times      *util.TriggerTimeTracker
	topology   *topologycache.TopologyCache
	reconciler *endpointslice.Reconciler
	// zones is what topology is told of nodes.
	zones zones
	// waiting holds the Services whose slices in the cache are older than what was written: the event that brings them
	// up to date queues the Service.
	waiting sync.Map
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	services, pods := d.Informers.Core().V1().Services(), d.Informers.Core().V1().Pods()
	nodes, slices := d.Informers.Core().V1().Nodes(), d.Informers.Discovery().V1().EndpointSlices()
	if err := slices.Informer().AddIndexers(cache.Indexers{byService: func(obj any) ([]string, error) {
		return []string{serviceOf(obj.(*discoveryv1.EndpointSlice)).String()}, nil
	}}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	c := &controller{
		services: services.Lister(), pods: pods.Lister(), slices: slices.Informer().GetIndexer(),
		tracker: util.NewEndpointSliceTracker(), times: util.NewTriggerTimeTracker(), topology: topologycache.NewTopologyCache(),
	}
	c.reconciler = endpointslice.NewReconciler(d.Client, nodes.Lister(), maxEndpoints, c.tracker, c.topology, d.Recorder, manager,
		endpointslice.WithPreferSameTrafficDistributionEnabled(true))
	c.loop = &engine.Loop{Name: Name, Workers: workers, Sync: c.sync}
	handlers := []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{services.Informer(), engine.OnAny(engine.Object(c.loop))},
		{pods.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.podChanged(nil, obj) },
			UpdateFunc: c.podChanged,
			DeleteFunc: func(obj any) { c.podChanged(nil, undeleted(obj)) },
		}},
		{nodes.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.nodeSet(obj.(*corev1.Node)) },
			UpdateFunc: func(_, obj any) { c.nodeSet(obj.(*corev1.Node)) },
			DeleteFunc: c.nodeGone,
		}},
		{slices.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.sliceSet(obj.(*discoveryv1.EndpointSlice)) },
			UpdateFunc: c.sliceChanged,
			DeleteFunc: func(obj any) { c.sliceGone(undeleted(obj)) },
		}},
	}
	for _, h := range handlers {
		r, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return nil, fmt.Errorf("watch for endpoints: %w", err)
		}
		c.loop.Synced = append(c.loop.Synced, r.HasSyncedChecker())
	}
	return c.loop, nil
}

// undeleted is the object that an event of a deletion is about.
func undeleted(obj any) any {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		return gone.Obj
	}
	return obj
}

// serviceOf is the Service that a slice belongs to.
func serviceOf(s *discoveryv1.EndpointSlice) cache.ObjectName {
	return cache.ObjectName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

// podChanged queues the Services that select the Pod, before or after the change.
func (c *controller) podChanged(old, obj any) {
	key := util.GetPodUpdateProjectionKey(old, obj)
	if key == nil {
		return
	}
	names, err := util.GetServicesToUpdate(c.services, key)
	if err != nil {
		klog.Background().Error(err, "Cannot find the services of a pod", "controller", Name, "namespace", key.Namespace)
		return
	}
	for name := range names {
		if key, err := cache.ParseObjectName(name); err == nil {
			c.loop.Add(key)
		}
	}
}

// nodesKey is the key under which changes of nodes are queued: no Service has it.
var nodesKey = cache.ObjectName{}

// nodeSet follows what decides how endpoints are spread over zones.
func (c *controller) nodeSet(n *corev1.Node) {
	if c.zones.set(n) {
		c.loop.Add(nodesKey)
	}
}

func (c *controller) nodeGone(obj any) {
	if name, err := cache.DeletionHandlingObjectToName(obj); err == nil && c.zones.remove(name.Name) {
		c.loop.Add(nodesKey)
	}
}

// tellOfNodes tells topology of the nodes if they have changed, and queues the Services that this concerns.
func (c *controller) tellOfNodes() {
	if !c.zones.tell(c.topology) {
		return
	}
	for _, key := range c.topology.GetOverloadedServices() {
		if name, err := cache.ParseObjectName(key); err == nil {
			c.loop.Add(name)
		}
	}
}

func (c *controller) sliceSet(s *discoveryv1.EndpointSlice) {
	if !c.reconciler.ManagedByController(s) {
		return
	}
	name := serviceOf(s)
	if _, wanted := c.waiting.Load(name); wanted || c.tracker.ShouldSync(s) {
		c.loop.Add(name)
	}
}

func (c *controller) sliceChanged(old, obj any) {
	was, is := old.(*discoveryv1.EndpointSlice), obj.(*discoveryv1.EndpointSlice)
	switch {
	case serviceOf(was) != serviceOf(is):
		// Whoever relabels a slice takes it from one Service and gives it to another.
		c.loop.Add(serviceOf(was))
		c.loop.Add(serviceOf(is))
	case c.reconciler.ManagedByChanged(was, is):
		c.loop.Add(serviceOf(is))
	default:
		c.sliceSet(is)
	}
}

func (c *controller) sliceGone(obj any) {
	s, ok := obj.(*discoveryv1.EndpointSlice)
	if !ok || !c.reconciler.ManagedByController(s) || !c.tracker.Has(s) {
		return
	}
	name := serviceOf(s)
	_, wanted := c.waiting.Load(name)
	if expected := c.tracker.HandleDeletion(s); wanted || !expected {
		c.loop.Add(name)
	}
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	// A Service, too, is to be seen with the nodes as they are, whichever key came first.
	c.tellOfNodes()
	if key == nodesKey {
		return nil
	}
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		// The slices go with the Service that owns them.
		c.times.DeleteService(key.Namespace, key.Name)
		c.reconciler.DeleteService(key.Namespace, key.Name)
		c.tracker.DeleteService(key.Namespace, key.Name)
		c.waiting.Delete(key)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read service %s: %w", key, err)
	}
	// A Service without selector has its endpoints from elsewhere.
	if svc.Spec.Type == corev1.ServiceTypeExternalName || svc.Spec.Selector == nil {
		return nil
	}
	pods, err := c.pods.Pods(key.Namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list pods of service %s: %w", key, err)
	}
	c.waiting.Store(key, struct{}{}) // before the look at the cache, lest the event comes between
	slices, err := c.slicesOf(key)
	if err != nil {
		return err
	}
	if c.tracker.StaleSlices(svc, slices) {
		return nil
	}
	c.waiting.Delete(key)
	trigger := c.times.ComputeEndpointLastChangeTriggerTime(key.Namespace, svc, pods)
	if err := c.reconciler.Reconcile(klog.FromContext(ctx), svc, pods, slices, trigger); err != nil {
		return fmt.Errorf("update endpoint slices of service %s: %w", key, err)
	}
	return nil
}

// slicesOf are the slices of a Service that this controller keeps and that are not on their way out.
func (c *controller) slicesOf(key cache.ObjectName) ([]*discoveryv1.EndpointSlice, error) {
	objs, err := c.slices.ByIndex(byService, key.String())
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices of service %s: %w", key, err)
	}
	var slices []*discoveryv1.EndpointSlice
	for _, obj := range objs {
		if s := obj.(*discoveryv1.EndpointSlice); c.reconciler.ManagedByController(s) && s.DeletionTimestamp == nil {
			slices = append(slices, s)
		}
	}
	return slices, nil
}
