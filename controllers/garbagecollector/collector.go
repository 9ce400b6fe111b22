// Package garbagecollector deletes objects whose owners are gone, and carries out the propagation policies of deletions:
// background, foreground (dependents first) and orphan (dependents are let go).
//
// The graph of who owns whom is kept from metadata alone, a few hundred bytes an object. It may lag, so each decision is
// checked against the API before anything is deleted, and each deletion names the UID it is about.
package garbagecollector

import (
	"context"
	"fmt"
	"slices"
	"sync"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/kindmapper"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "generic-garbage-collector"

// Collector is the controller.
type Collector struct {
	metadata   metadata.Interface
	extensions apiextensions.Interface
	discover   discovery.DiscoveryInterface
	mapper     kindmapper.Mapper

	mu    sync.Mutex
	graph *graph
	// defined are the kinds that definitions of custom resources say are served, with their versions.
	defined map[schema.GroupKind][]string

	remove, orphan engine.Queue[types.UID]
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	c := &Collector{
		metadata: d.Metadata, extensions: d.Extensions, discover: d.Client.Discovery(), graph: newGraph(),
		defined: map[schema.GroupKind][]string{}, mapper: kindmapper.New(d.Client.Discovery()),
	}
	c.remove = engine.Queue[types.UID]{Name: Name, Workers: 8, Sync: c.consider}
	c.orphan = engine.Queue[types.UID]{Name: Name + "-orphan", Workers: 2, Sync: c.letGo}
	return c, nil
}

// Run watches every kind that can be deleted, custom resources among them, until ctx ends.
func (c *Collector) Run(ctx context.Context) error {
	resources, err := c.resources(ctx)
	if err != nil {
		return err
	}
	var running sync.WaitGroup
	remote := newRemoteKinds(ctx, c)
	var synced []cache.DoneChecker
	for _, gvr := range resources {
		var changed func()
		if gvr == apiServices {
			changed = func() { remote.queue.Add(struct{}{}) }
		}
		synced = append(synced, c.follow(ctx, gvr, changed, &running))
	}
	c.remove.Synced, c.orphan.Synced = synced, synced
	running.Go(func() { _ = c.remove.Run(ctx) }) // both end with ctx only
	running.Go(func() { _ = c.orphan.Run(ctx) })
	running.Go(remote.run)
	custom := &customKinds{Collector: c, ctx: ctx, running: map[schema.GroupResource]customWatch{}}
	err = custom.run()
	running.Wait()
	return err
}

// resources lists the built-in kinds that can own or be owned. Events are left out, as upstream does: they are many, and expire by
// themselves.
func (c *Collector) resources(ctx context.Context) ([]schema.GroupVersionResource, error) {
	set, _, err := c.collectable()
	if err != nil {
		return nil, err
	}
	elsewhere, err := c.elsewhere(ctx)
	if err != nil {
		return nil, err
	}
	crds, err := c.extensions.ApiextensionsV1().CustomResourceDefinitions().List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list definitions of custom resources: %w", err)
	}
	left := map[schema.GroupResource]bool{{Resource: "events"}: true, {Group: "events.k8s.io", Resource: "events"}: true}
	for i := range crds.Items {
		left[resourceOf(&crds.Items[i])] = true
	}
	var out []schema.GroupVersionResource
	for gvr := range set {
		if !left[gvr.GroupResource()] && !elsewhere[gvr.GroupVersion()] {
			out = append(out, gvr)
		}
	}
	return out, nil
}

// collectable lists the kinds that can be listed, watched and deleted, and the group versions whose kinds nobody tells just now: those of
// servers behind the API server that are not there.
func (c *Collector) collectable() (map[schema.GroupVersionResource]struct{}, map[schema.GroupVersion]error, error) {
	lists, err := c.discover.ServerPreferredResources()
	failed, partial := discovery.GroupDiscoveryFailedErrorGroups(err)
	if err != nil && !partial {
		return nil, nil, fmt.Errorf("discover kinds: %w", err)
	}
	lists = discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list", "watch"}}, lists)
	set, err := discovery.GroupVersionResources(lists)
	if err != nil {
		return nil, nil, fmt.Errorf("discover kinds: %w", err)
	}
	return set, failed, nil
}

// known has it be asked again which of a group's objects exist that others name as owners, now that its kinds are known.
func (c *Collector) known(group string) {
	c.mapper.Reset()
	c.mu.Lock()
	named := c.graph.named(group)
	c.mu.Unlock()
	c.queue(todo{remove: named})
}

// coming says whether a kind that discovery does not have is defined all the same: it will be there in a moment, and nothing tells when.
func (c *Collector) coming(ref metav1.OwnerReference) bool {
	gvk := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind)
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.defined[gvk.GroupKind()], gvk.Version)
}

func nodeOf(gvr schema.GroupVersionResource, m *metav1.PartialObjectMetadata) node {
	deleting := m.DeletionTimestamp != nil
	return node{
		identity: identity{gvr, m.Namespace, m.Name, m.UID}, owners: m.OwnerReferences, deleting: deleting,
		orphaning:  deleting && slices.Contains(m.Finalizers, metav1.FinalizerOrphanDependents),
		foreground: deleting && slices.Contains(m.Finalizers, metav1.FinalizerDeleteDependents),
	}
}

func (c *Collector) gone(uid types.UID) {
	c.mu.Lock()
	t := c.graph.remove(uid)
	c.mu.Unlock()
	c.queue(t)
}

func (c *Collector) queue(t todo) {
	for _, uid := range t.remove {
		c.remove.Add(uid)
	}
	for _, uid := range t.orphan {
		c.orphan.Add(uid)
	}
}

// look returns a copy of what the graph knows of an object, with the dependents that its foreground deletion waits for.
func (c *Collector) look(uid types.UID) (n node, blocking []node, dependents int, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.graph.nodes[uid]
	if p == nil {
		return node{}, nil, 0, false
	}
	for _, b := range p.blocking() {
		blocking = append(blocking, *b)
	}
	return *p, blocking, len(p.dependents), true
}

// live reads an object's metadata from the API; nil if it is gone or another one has its name.
func (c *Collector) live(ctx context.Context, id identity) (*metav1.PartialObjectMetadata, error) {
	m, err := c.client(id).Get(ctx, id.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && m.UID != id.uid {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s %s/%s: %w", id.resource.Resource, id.namespace, id.name, err)
	}
	return m, nil
}

func (c *Collector) client(id identity) metadata.ResourceInterface {
	if id.namespace == "" {
		return c.metadata.Resource(id.resource)
	}
	return c.metadata.Resource(id.resource).Namespace(id.namespace)
}

// resolve finds where the object that a reference names would be: in the namespace of who names it, or in none.
func (c *Collector) resolve(ref metav1.OwnerReference, namespace string) (identity, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return identity{}, fmt.Errorf("read owner reference %s %s: %w", ref.Kind, ref.Name, err)
	}
	mapping, err := c.mapper.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if err != nil {
		return identity{}, fmt.Errorf("find kind of owner %s %s: %w", ref.Kind, ref.Name, err)
	}
	if mapping.Scope.Name() == meta.RESTScopeNameRoot {
		namespace = ""
	}
	return identity{mapping.Resource, namespace, ref.Name, ref.UID}, nil
}
