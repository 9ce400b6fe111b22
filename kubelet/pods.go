package kubelet

import (
	"context"
	"errors"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/kubelet/static"
)

// newStatic makes what static Pods need, which costs next to nothing where there are none: mirrors of earlier ones may be in the API.
func (k *Kubelet) newStatic() {
	k.mirrors = static.NewMirrors(static.MirrorsConfig{
		NodeName: k.cfg.NodeName, Client: k.cfg.Client, Node: k.node.Get, Registered: k.node.Registered(), Pods: k, Status: k.status,
	})
	if k.cfg.StaticPods != "" {
		k.source = static.NewSource(static.SourceConfig{Path: k.cfg.StaticPods, NodeName: k.cfg.NodeName, Format: k.cfg.PodFormat})
	}
}

// StaticKnown implements static.Holder: mirrors are made before the manager of Pods, and run after it.
func (k *Kubelet) StaticKnown() <-chan struct{} { return k.pods.StaticKnown() }

// HasStatic implements static.Holder.
func (k *Kubelet) HasStatic(name types.NamespacedName) bool { return k.pods.HasStatic(name) }

// runPods runs static Pods at once, and those of the API when the API says which they are.
func (k *Kubelet) runPods(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	var errs [3]error
	part := func(err *error, run func() error) {
		parts.Go(func() {
			defer cancel()
			*err = run()
		})
	}
	var own []*v1.Pod
	if k.source != nil {
		own = k.source.Read(ctx)
		part(&errs[0], func() error {
			select {
			case <-k.pods.StaticKnown():
				return k.source.Run(ctx, k.pods)
			case <-ctx.Done():
				return nil
			}
		})
	}
	part(&errs[1], func() error { return k.mirrors.Run(ctx, k.seen) })
	part(&errs[2], func() error { return k.pods.Run(ctx, own, k.bound) })
	parts.Wait()
	return errors.Join(errs[:]...)
}

// bound waits for the Pods that the API server binds to this node; false says that ctx ended first.
func (k *Kubelet) bound(ctx context.Context) ([]*v1.Pod, bool) {
	select {
	case <-k.node.Registered():
	case <-ctx.Done():
		return nil, false
	}
	pods := k.podInformer.Core().V1().Pods().Informer()
	if !cache.WaitFor(ctx, "", pods.HasSyncedChecker(), k.informers.Core().V1().Services().Informer().HasSyncedChecker()) {
		return nil, false
	}
	var all []*v1.Pod
	for _, o := range pods.GetStore().List() {
		if p := o.(*v1.Pod); !static.IsMirror(p) {
			all = append(all, static.Foreign(p))
		}
	}
	return all, true
}

// podEvents takes in what the API says of Pods of this node. They go to the manager as they come; it holds them until it has adopted
// what runs.
func (k *Kubelet) podEvents() cache.ResourceEventHandler {
	came := func(p *v1.Pod) {
		if static.IsMirror(p) {
			k.mirrors.Observe(p)
			return
		}
		k.status.Observe(p)
		k.pods.Upsert(static.Foreign(p))
	}
	left := func(p *v1.Pod) {
		if static.IsMirror(p) {
			k.mirrors.Gone(p)
			return
		}
		k.pods.Delete(p)
	}
	return cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { came(o.(*v1.Pod)) },
		UpdateFunc: func(old, o any) {
			was, is := old.(*v1.Pod), o.(*v1.Pod)
			if was.UID != is.UID { // deleted and made again between two looks
				left(was)
			}
			came(is)
		},
		DeleteFunc: func(o any) {
			if gone, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = gone.Obj
			}
			if p, ok := o.(*v1.Pod); ok {
				left(p)
			}
		},
	}
}
