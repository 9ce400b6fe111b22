package garbagecollector

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/peapod/peapod/controllers/engine"
)

// apiServices say which group versions there are; those that the API server keeps itself are marked.
var apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}

const ownMark = "kube-aggregator.kubernetes.io/automanaged"

// rediscover is after what time the kinds of servers behind the API server are asked for again, as upstream: such a server may have
// others, of which nothing tells.
const rediscover = 30 * time.Second

// remoteKinds watches the objects of the kinds that servers behind the API server have, as these come and go.
type remoteKinds struct {
	*Collector
	ctx     context.Context
	queue   engine.Queue[struct{}]
	watches sync.WaitGroup
	// running has what ends the watch of each kind. Only the queue's worker uses it.
	running map[schema.GroupVersionResource]func()
}

// newRemoteKinds returns what works on its queue until ctx ends, once it runs. The queue is told of each change of the APIServices.
func newRemoteKinds(ctx context.Context, c *Collector) *remoteKinds {
	k := &remoteKinds{Collector: c, ctx: ctx, running: map[schema.GroupVersionResource]func(){}}
	k.queue.Name, k.queue.Sync = Name+"-remote", k.sync
	return k
}

func (k *remoteKinds) run() {
	_ = k.queue.Run(k.ctx) // ends with the context only
	k.watches.Wait()
}

// elsewhere lists the group versions that are not the API server's own.
func (c *Collector) elsewhere(ctx context.Context) (map[schema.GroupVersion]bool, error) {
	list, err := c.metadata.Resource(apiServices).List(ctx, metav1.ListOptions{})
	if err != nil {
		return nil, fmt.Errorf("list APIServices: %w", err)
	}
	out := map[schema.GroupVersion]bool{}
	for i := range list.Items {
		s := &list.Items[i]
		version, group, ok := strings.Cut(s.Name, ".")
		if own := s.Labels[ownMark]; ok && own == "" {
			out[schema.GroupVersion{Group: group, Version: version}] = true
		}
	}
	return out, nil
}

// sync watches the kinds that there are. Those of a server that is not there just now may still have objects: their watches go on.
func (k *remoteKinds) sync(ctx context.Context, _ struct{}) error {
	elsewhere, err := k.elsewhere(ctx)
	if err != nil {
		return err
	}
	if len(elsewhere) == 0 && len(k.running) == 0 {
		return nil
	}
	kinds, failed, err := k.collectable()
	if err != nil {
		return err
	}
	for gvr, stop := range k.running {
		if _, there := kinds[gvr]; elsewhere[gvr.GroupVersion()] && (there || failed[gvr.GroupVersion()] != nil) {
			continue
		}
		stop()
		delete(k.running, gvr)
		k.mapper.Reset()
		k.forget(gvr)
	}
	for gvr := range kinds {
		if k.running[gvr] != nil || !elsewhere[gvr.GroupVersion()] {
			continue
		}
		k.known(gvr.Group)
		ctx, cancel := context.WithCancel(k.ctx)
		var done sync.WaitGroup
		k.follow(ctx, gvr, nil, &done)
		k.watches.Go(done.Wait)
		k.running[gvr] = func() { cancel(); done.Wait() }
	}
	if len(elsewhere) == 0 {
		return nil
	}
	return &engine.Retry{After: rediscover, Why: "servers behind the API server may have other kinds"}
}
