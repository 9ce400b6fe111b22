// Package proxy leads connections to Services to their endpoints, by rules in the kernel on every node: cluster IPs, node
// ports, external addresses and those of load balancers.
//
// A pure core turns Services and EndpointSlices into tables of rules (frontend.go, state.go, table.go); the Proxy around it
// watches the API and changes the kernel's rules by one transaction for all that changed meanwhile. Connections that are
// established stay as they are.
package proxy

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/bell"
	"github.com/peapod/peapod/internal/refusedports"
	"github.com/peapod/peapod/network/nft"
)

// Config says where the proxy works.
type Config struct {
	// Table is the name of the nftables table that it keeps. Nobody else may change it.
	Table string
	// NodeName is this node, by which endpoints count as local; NodeIPs are its addresses.
	NodeName string
	NodeIPs  []netip.Addr
	Networks Networks
	// Own are cluster IPs that this machine answers itself (its DNS), for which there are no rules.
	Own []netip.Addr
	// Reserved are ports of the node's addresses that no load balancer or external address may take: those of the API and
	// the kubelet.
	Reserved []uint16
	// Recorder tells the owners of Services what they cannot have. Optional.
	Recorder record.EventRecorder
	// Report writes the ports that load balancers are not to have here into the Node's annotation (package refusedports); empty
	// removes it. Optional.
	Report func(ctx context.Context, refused string) error
	// Informers give Services, EndpointSlices and Nodes. Whoever made them starts them, after New.
	Informers informers.SharedInformerFactory
}

func (c *Config) validate() error {
	if c.Table == "" || c.NodeName == "" || c.Informers == nil {
		return errors.New("service proxy: table, node name and informers are required")
	}
	if len(c.Networks.Service) == 0 {
		return errors.New("service proxy: no network of cluster IPs")
	}
	return nil
}

// Proxy keeps the rules of one node.
type Proxy struct {
	cfg      Config
	at       where
	services corelisters.ServiceLister
	ranges   networkinglisters.ServiceCIDRLister
	slices   cache.Indexer
	synced   []cache.DoneChecker
	applier  nft.Applier
	health   healthServers

	mu sync.Mutex
	// dirty are Services that something has changed for; all stands for every one of them.
	dirty map[types.NamespacedName]bool
	all   bool
	zone  string
	// regroup says that ServiceCIDRs have changed.
	regroup bool
	// reported is the annotation of this node's Node object, if node says that there is one.
	reported string
	node     bool
	// sockets tells that sockets have ended on ports that Services want.
	sockets sockets
	// bell is rung for all of this.
	bell bell.Bell

	// Used by Run alone: the rules, the networks that they know and whether there are routes to them, and which ports it has said to be
	// in use by the host; true if a load balancer is to have them.
	state  *state
	nets   Networks
	routed bool
	told   map[types.NamespacedName]map[Frontend]bool
}

// byService is the index of EndpointSlices by namespace and name of their Service. Those labelled as a headless Service's are not in it:
// they are for DNS alone, whatever Service they name.
const byService = "service-proxy/service"

// reportTimeout bounds a report, behind which the rules wait.
const reportTimeout = 10 * time.Second

// New returns a proxy, which does nothing until Run but notice what changes.
func New(cfg Config) (*Proxy, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	p := &Proxy{
		cfg:      cfg,
		at:       where{node: cfg.NodeName, own: map[netip.Addr]bool{}, addresses: map[netip.Addr]bool{}, reserved: map[uint16]bool{}},
		services: cfg.Informers.Core().V1().Services().Lister(),
		ranges:   cfg.Informers.Networking().V1().ServiceCIDRs().Lister(),
		slices:   cfg.Informers.Discovery().V1().EndpointSlices().Informer().GetIndexer(),
		dirty:    map[types.NamespacedName]bool{}, all: true, regroup: true, bell: bell.New(), state: newState(), nets: cfg.Networks,
		told: map[types.NamespacedName]map[Frontend]bool{},
	}
	if p.at.pods = cfg.Networks.AllPods; len(p.at.pods) == 0 {
		p.at.pods = cfg.Networks.Pods
	}
	if cfg.Networks.Service[0].Addr().Is6() {
		p.health.host = net.IPv6unspecified
	}
	for _, a := range cfg.Own {
		p.at.own[a] = true
	}
	for _, a := range cfg.NodeIPs {
		p.at.addresses[a] = true
	}
	for _, port := range cfg.Reserved {
		p.at.reserved[port] = true
	}
	return p, p.watch()
}

func (p *Proxy) watch() error {
	services, slices := p.cfg.Informers.Core().V1().Services().Informer(), p.cfg.Informers.Discovery().V1().EndpointSlices().Informer()
	err := slices.AddIndexers(cache.Indexers{byService: func(obj any) ([]string, error) {
		s := obj.(*discoveryv1.EndpointSlice)
		if _, headless := s.Labels[corev1.IsHeadlessService]; headless {
			return nil, nil
		}
		return []string{serviceOf(s).String()}, nil
	}})
	if err != nil {
		return fmt.Errorf("index endpoint slices: %w", err)
	}
	onService := func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			p.changed(name.AsNamespacedName())
		}
	}
	onSlice := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if s, ok := obj.(*discoveryv1.EndpointSlice); ok {
			p.changed(serviceOf(s))
		}
	}
	for _, w := range []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandlerFuncs
	}{
		{services, cache.ResourceEventHandlerFuncs{AddFunc: onService, UpdateFunc: func(_, obj any) { onService(obj) }, DeleteFunc: onService}},
		// A slice that changes hands concerns the Service from before, too.
		{slices, cache.ResourceEventHandlerFuncs{AddFunc: onSlice, UpdateFunc: func(old, obj any) { onSlice(old); onSlice(obj) }, DeleteFunc: onSlice}},
		{p.cfg.Informers.Networking().V1().ServiceCIDRs().Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc: p.rangesChanged, UpdateFunc: p.rangeUpdated, DeleteFunc: p.rangesChanged}},
		{p.cfg.Informers.Core().V1().Nodes().Informer(), cache.ResourceEventHandlerFuncs{AddFunc: p.nodeChanged, UpdateFunc: func(_, obj any) { p.nodeChanged(obj) }}},
	} {
		r, err := w.informer.AddEventHandler(w.handler)
		if err != nil {
			return fmt.Errorf("watch services: %w", err)
		}
		p.synced = append(p.synced, r.HasSyncedChecker())
	}
	return nil
}

func serviceOf(s *discoveryv1.EndpointSlice) types.NamespacedName {
	return types.NamespacedName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

func (p *Proxy) changed(name types.NamespacedName) {
	p.mu.Lock()
	p.dirty[name] = true
	p.mu.Unlock()
	p.bell.Ring()
}

func (p *Proxy) rangesChanged(any) {
	p.mu.Lock()
	p.regroup = true
	p.mu.Unlock()
	p.bell.Ring()
}

// rangeUpdated leaves out what becomes of a ServiceCIDR's status.
func (p *Proxy) rangeUpdated(old, obj any) {
	was, ok := old.(*networkingv1.ServiceCIDR)
	if is, also := obj.(*networkingv1.ServiceCIDR); !ok || !also || !slices.Equal(was.Spec.CIDRs, is.Spec.CIDRs) {
		p.rangesChanged(obj)
	}
}

// nodeChanged follows the zone of this node, by which endpoints count as near, and what it says to refuse.
func (p *Proxy) nodeChanged(obj any) {
	node, ok := obj.(*corev1.Node)
	if !ok || node.Name != p.cfg.NodeName {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if refused := node.Annotations[refusedports.Annotation]; !p.node || refused != p.reported {
		p.reported, p.node = refused, true
		p.bell.Ring()
	}
	if zone := node.Labels[corev1.LabelTopologyZone]; zone != p.zone {
		p.zone, p.all = zone, true
		p.bell.Ring()
	}
}

// Run keeps the rules until ctx ends; they stay, and serve while no proxy runs. The first transaction is made once all
// Services and EndpointSlices are known, and replaces what an earlier process left.
func (p *Proxy) Run(ctx context.Context) error {
	defer p.health.close()
	defer p.sockets.close()
	if err := p.cfg.addRoutes(p.cfg.Networks.Service); err != nil {
		return err
	}
	if !cache.WaitFor(ctx, "", p.synced...) {
		return nil
	}
	whole := true // whatever is there
	p.bell.Answer(ctx, "Cannot bring services up to date, will retry", func(ctx context.Context) error {
		err := p.update(ctx, whole)
		if whole = err != nil; whole {
			return err
		}
		return errors.Join(p.route(), p.report(ctx))
	})
	return nil
}

// update brings the rules in line with what has changed; with everything, if whole.
func (p *Proxy) update(ctx context.Context, whole bool) error {
	regrouped, err := p.followRanges(ctx)
	if err != nil {
		return err
	}
	whole = whole || regrouped
	if err := p.look(ctx); err != nil {
		return err
	}
	changes, grown := p.state.pending()
	if len(changes) == 0 && !whole {
		p.state.commit(nil)
		return nil
	}
	err = errors.New("whole table wanted")
	if !whole && !grown {
		err = p.applier.Update(p.cfg.Table, nft.Update{Elements: deltas(changes)})
	}
	if err != nil {
		if err := p.applier.Apply(p.state.table(p.cfg.Table, &p.nets)); err != nil {
			return err
		}
	}
	p.state.commit(changes)
	if stale := newStaleFlows(changes); stale != nil {
		// The rules are right; a flow that stays ends when its client pauses.
		if err := stale.forget(); err != nil {
			klog.FromContext(ctx).Error(err, "UDP clients may go on sending to endpoints that are gone")
		}
	}
	return nil
}

// look reads what has changed into the state.
func (p *Proxy) look(ctx context.Context) error {
	p.mu.Lock()
	dirty, all := p.dirty, p.all
	p.dirty, p.all, p.at.zone = map[types.NamespacedName]bool{}, false, p.zone
	p.mu.Unlock()
	if all {
		for name := range p.state.services {
			dirty[name] = true
		}
		for _, obj := range p.cfg.Informers.Core().V1().Services().Informer().GetStore().List() {
			svc := obj.(*corev1.Service)
			dirty[types.NamespacedName{Namespace: svc.Namespace, Name: svc.Name}] = true
		}
	}
	if p.sockets.ended() {
		for name := range p.told {
			dirty[name] = true
		}
	}
	for name := range dirty {
		svc, err := p.services.Services(name.Namespace).Get(name.Name)
		if apierrors.IsNotFound(err) {
			p.state.set(name, time.Time{}, nil)
			delete(p.told, name)
			p.health.set(ctx, name, 0, 0)
			continue
		}
		if err != nil {
			return fmt.Errorf("read service %s: %w", name, err)
		}
		objs, err := p.slices.ByIndex(byService, name.String())
		if err != nil {
			return fmt.Errorf("list endpoint slices of service %s: %w", name, err)
		}
		list := make([]*discoveryv1.EndpointSlice, 0, len(objs))
		for _, obj := range objs {
			list = append(list, obj.(*discoveryv1.EndpointSlice))
		}
		fronts := frontends(svc, list, &p.at)
		p.yield(ctx, svc, fronts)
		p.state.set(name, svc.CreationTimestamp.Time, fronts)
		p.health.set(ctx, name, svc.Spec.HealthCheckNodePort, localReady(list, p.cfg.NodeName))
	}
	return nil
}

// localReady counts the addresses on this node that are ready for a Service.
func localReady(list []*discoveryv1.EndpointSlice, node string) int {
	var ready []string
	for _, s := range list {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			if e.NodeName != nil && *e.NodeName == node && len(e.Addresses) > 0 && (e.Conditions.Ready == nil || *e.Conditions.Ready) {
				ready = append(ready, e.Addresses[0])
			}
		}
	}
	slices.Sort(ready)
	return len(slices.Compact(ready))
}
