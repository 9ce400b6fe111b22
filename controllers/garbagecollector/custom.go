package garbagecollector

import (
	"context"
	"fmt"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/version"
	"k8s.io/client-go/tools/cache"
)

// customKinds watches the objects of the kinds that CustomResourceDefinitions define, as these come and go.
type customKinds struct {
	*Collector
	ctx     context.Context
	watches sync.WaitGroup
	// running has the version that is watched of each kind, and what ends that. Only the definitions' informer uses it.
	running map[schema.GroupResource]customWatch
}

type customWatch struct {
	version string
	stop    func()
}

// run follows the definitions until ctx ends.
func (k *customKinds) run() error {
	factory := extensionsinformers.NewSharedInformerFactory(k.extensions, 0)
	informer := factory.Apiextensions().V1().CustomResourceDefinitions().Informer()
	if err := informer.SetTransform(outline); err != nil {
		return fmt.Errorf("watch definitions of custom resources: %w", err)
	}
	set := func(obj any) {
		if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
			k.set(crd)
		}
	}
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    set,
		UpdateFunc: func(_, obj any) { set(obj) },
		DeleteFunc: func(obj any) {
			if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = last.Obj
			}
			if crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition); ok {
				k.end(crd)
			}
		},
	}); err != nil {
		return fmt.Errorf("watch definitions of custom resources: %w", err)
	}
	factory.Start(k.ctx.Done())
	<-k.ctx.Done()
	factory.Shutdown()
	k.watches.Wait()
	return nil
}

// outline keeps of a definition what is needed to watch its objects: schemas can be large.
func outline(obj any) (any, error) {
	crd, ok := obj.(*apiextensionsv1.CustomResourceDefinition)
	if !ok {
		return obj, nil
	}
	short := &apiextensionsv1.CustomResourceDefinition{}
	short.Name, short.UID, short.ResourceVersion = crd.Name, crd.UID, crd.ResourceVersion
	short.Spec.Group, short.Spec.Names.Plural, short.Spec.Names.Kind = crd.Spec.Group, crd.Spec.Names.Plural, crd.Spec.Names.Kind
	for _, v := range crd.Spec.Versions {
		short.Spec.Versions = append(short.Spec.Versions, apiextensionsv1.CustomResourceDefinitionVersion{Name: v.Name, Served: v.Served})
	}
	short.Status.Conditions = crd.Status.Conditions
	return short, nil
}

func resourceOf(crd *apiextensionsv1.CustomResourceDefinition) schema.GroupResource {
	return schema.GroupResource{Group: crd.Spec.Group, Resource: crd.Spec.Names.Plural}
}

func kindOf(crd *apiextensionsv1.CustomResourceDefinition) schema.GroupKind {
	return schema.GroupKind{Group: crd.Spec.Group, Kind: crd.Spec.Names.Kind}
}

// set watches the objects of a definition that is established, in the version that discovery prefers.
func (k *customKinds) set(crd *apiextensionsv1.CustomResourceDefinition) {
	best := ""
	var served []string
	for _, v := range crd.Spec.Versions {
		if v.Served {
			served = append(served, v.Name)
		}
		if v.Served && (best == "" || version.CompareKubeAwareVersionStrings(v.Name, best) > 0) {
			best = v.Name
		}
	}
	gr := resourceOf(crd)
	if best == "" || !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established) {
		k.end(crd)
		return
	}
	k.mu.Lock()
	k.defined[kindOf(crd)] = served
	k.mu.Unlock()
	old, ok := k.running[gr]
	if ok && old.version == best {
		return
	}
	if ok {
		old.stop()
	}
	k.known(gr.Group)
	ctx, cancel := context.WithCancel(k.ctx)
	var done sync.WaitGroup
	synced := k.follow(ctx, gr.WithVersion(best), nil, &done)
	if ok {
		// What the other version showed and this one does not went in between.
		done.Go(func() {
			if cache.WaitFor(ctx, "", synced) {
				k.forget(gr.WithVersion(old.version))
			}
		})
	}
	k.watches.Go(done.Wait)
	k.running[gr] = customWatch{best, func() { cancel(); done.Wait() }}
}

// end stops watching the objects of a kind that is gone. They are, too: a definition goes after its objects.
func (k *customKinds) end(crd *apiextensionsv1.CustomResourceDefinition) {
	k.mu.Lock()
	delete(k.defined, kindOf(crd))
	k.mu.Unlock()
	gr := resourceOf(crd)
	now, ok := k.running[gr]
	if !ok {
		return
	}
	now.stop()
	delete(k.running, gr)
	k.mapper.Reset()
	k.forget(gr.WithVersion(now.version))
}

// forget takes in that the objects that were seen in a version of their kind are gone.
func (c *Collector) forget(gvr schema.GroupVersionResource) {
	for _, uid := range c.of(gvr) {
		c.gone(uid)
	}
}

// of lists the objects that were seen in a version of their kind.
func (c *Collector) of(gvr schema.GroupVersionResource) []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []types.UID
	for uid, n := range c.graph.nodes {
		if !n.virtual && n.resource == gvr {
			out = append(out, uid)
		}
	}
	return out
}
