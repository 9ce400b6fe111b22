// Package resourceclaim makes the ResourceClaims of Pods that name templates, tells the Pods their names, and ends what nobody uses
// any more: reservations of Pods that are gone or over, then the allocation, then the claims that were made for those Pods.
package resourceclaim

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role of the
// same name fits.
const Name = "resource-claim-controller"

// Indexes of Pods, by namespace/name of their claims and of the templates of those.
const (
	byClaim    = "resourceclaim.claim"
	byTemplate = "resourceclaim.template"
)

// key names a claim, or a Pod that has some.
type key struct {
	claim bool
	cache.ObjectName
}

type controller struct {
	client    kubernetes.Interface
	recorder  record.EventRecorder
	informers informers.SharedInformerFactory
	pods      corelisters.PodLister
	podIndex  cache.Indexer
	claims    resourcelisters.ResourceClaimLister
	queue     *engine.Queue[key]
	// templates starts watching for templates. That happens when the first one is missed: nobody else has to know of them.
	templates sync.Once
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	pods, claims := d.Informers.Core().V1().Pods(), d.Informers.Resource().V1().ResourceClaims()
	c := &controller{client: d.Client, recorder: d.Recorder, informers: d.Informers,
		pods: pods.Lister(), podIndex: pods.Informer().GetIndexer(), claims: claims.Lister()}
	c.queue = &engine.Queue[key]{Name: Name, Workers: 2, Sync: c.sync}
	if err := pods.Informer().AddIndexers(cache.Indexers{byClaim: claimsOf, byTemplate: templatesOf}); err != nil {
		return nil, fmt.Errorf("index pods by resource claim: %w", err)
	}
	podsSeen, err := pods.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { c.podChanged(obj, false) },
		UpdateFunc: func(_, obj any) { c.podChanged(obj, false) },
		DeleteFunc: func(obj any) { c.podChanged(obj, true) },
	})
	if err != nil {
		return nil, err
	}
	claimsSeen, err := claims.Informer().AddEventHandler(engine.OnChange(c.claimChanged))
	if err != nil {
		return nil, err
	}
	c.queue.Synced = []cache.DoneChecker{podsSeen.HasSyncedChecker(), claimsSeen.HasSyncedChecker()}
	return c.queue, nil
}

func (c *controller) sync(ctx context.Context, k key) error {
	if k.claim {
		return c.syncClaim(ctx, k.ObjectName)
	}
	return c.syncPod(ctx, k.ObjectName)
}

// podChanged queues the Pod while it may need claims, and its claims when it no longer does.
func (c *controller) podChanged(obj any, deleted bool) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	p, ok := obj.(*corev1.Pod)
	if !ok || len(p.Spec.ResourceClaims) == 0 && p.Status.ExtendedResourceClaimStatus == nil {
		return
	}
	if !deleted && !over(p) {
		c.queue.Add(key{ObjectName: cache.MetaObjectToName(p)})
		return
	}
	for name := range resourceclaim.PodClaims(p) {
		c.queue.Add(key{claim: true, ObjectName: cache.ObjectName{Namespace: p.Namespace, Name: name}})
	}
}

// claimChanged queues the claim, and the Pods that name it.
func (c *controller) claimChanged(old, new *resourcev1.ResourceClaim) {
	changed(old, new)
	claim := new
	if new == nil {
		claim = old
	}
	name := cache.MetaObjectToName(claim)
	c.queue.Add(key{claim: true, ObjectName: name})
	c.podsOf(byClaim, name)
}

// podsOf queues the Pods that an index has for a name.
func (c *controller) podsOf(index string, name cache.ObjectName) {
	list, err := c.podIndex.ByIndex(index, name.String())
	if err != nil {
		return // an index that was made above does not fail
	}
	for _, obj := range list {
		if p, ok := obj.(*corev1.Pod); ok {
			c.queue.Add(key{ObjectName: cache.MetaObjectToName(p)})
		}
	}
}

// watchTemplates queues, from now on, the Pods that name a template when that appears, and now those whose template is there.
func (c *controller) watchTemplates(ctx context.Context) error {
	var err error
	c.templates.Do(func() {
		_, err = c.informers.Resource().V1().ResourceClaimTemplates().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: func(obj any) {
				if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
					c.podsOf(byTemplate, name)
				}
			}})
		c.informers.StartWithContext(ctx)
	})
	return err
}

// over says whether a Pod will not run any more, or never will.
func over(p *corev1.Pod) bool {
	return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed ||
		p.DeletionTimestamp != nil && p.Spec.NodeName == ""
}

func claimsOf(obj any) ([]string, error) {
	var names []string
	if p, ok := obj.(*corev1.Pod); ok {
		for name := range resourceclaim.PodClaims(p) {
			names = append(names, p.Namespace+"/"+name)
		}
	}
	return names, nil
}

func templatesOf(obj any) ([]string, error) {
	var names []string
	if p, ok := obj.(*corev1.Pod); ok {
		for i := range p.Spec.ResourceClaims {
			if t := p.Spec.ResourceClaims[i].ResourceClaimTemplateName; t != nil {
				names = append(names, p.Namespace+"/"+*t)
			}
		}
	}
	return names, nil
}
