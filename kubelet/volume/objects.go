package volume

import (
	"context"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/kubelet/pod"
)

// objectRef names a config map or a secret.
type objectRef struct {
	secret          bool
	namespace, name string
}

func (r objectRef) kind() string {
	if r.secret {
		return "secret"
	}
	return "configmap"
}

// refsOf returns the objects that the Pod's volumes are made from, each once.
func refsOf(p *v1.Pod) []objectRef {
	var out []objectRef
	add := func(secret bool, name string) {
		if r := (objectRef{secret, p.Namespace, name}); name != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			add(false, v.ConfigMap.Name)
		case v.Secret != nil:
			add(true, v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add(false, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add(true, s.Secret.Name)
				}
			}
		}
	}
	return out
}

// objects watches single config maps and secrets, each for as long as a Pod refers to it: a node may read no others.
type objects struct {
	client  kubernetes.Interface
	changed func(types.UID)

	mu       sync.Mutex
	watched  map[objectRef]*watched
	stopped  bool
	watchers sync.WaitGroup
}

// watched is one object under watch.
type watched struct {
	informer cache.SharedIndexInformer
	cancel   context.CancelFunc
	users    map[types.UID]bool
	// next is closed at the object's next change.
	next chan struct{}
}

func newObjects(client kubernetes.Interface, changed func(types.UID)) *objects {
	return &objects{client: client, changed: changed, watched: map[objectRef]*watched{}}
}

// follow replaces what a Pod refers to.
func (o *objects) follow(uid types.UID, old, new []objectRef) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.stopped {
		return
	}
	for _, ref := range new {
		w := o.watched[ref]
		if w == nil {
			w = o.watch(ref)
			o.watched[ref] = w
		}
		w.users[uid] = true
	}
	for _, ref := range old {
		w := o.watched[ref]
		if w == nil || slices.Contains(new, ref) {
			continue
		}
		delete(w.users, uid)
		if len(w.users) == 0 {
			w.cancel()
			delete(o.watched, ref)
		}
	}
}

// watch starts watching one object. The caller holds o.mu.
func (o *objects) watch(ref objectRef) *watched {
	one := func(opts *metav1.ListOptions) {
		opts.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, ref.name).String()
	}
	indexers := cache.Indexers{}
	w := &watched{users: map[types.UID]bool{}, next: make(chan struct{})}
	if ref.secret {
		w.informer = coreinformers.NewFilteredSecretInformer(o.client, ref.namespace, 0, indexers, one)
	} else {
		w.informer = coreinformers.NewFilteredConfigMapInformer(o.client, ref.namespace, 0, indexers, one)
	}
	notify := func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		close(w.next)
		w.next = make(chan struct{})
		for uid := range w.users {
			o.changed(uid)
		}
	}
	// The handler cannot fail to be added: the informer has not been stopped.
	_, _ = w.informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial {
				notify()
			}
		},
		UpdateFunc: func(_, _ any) { notify() },
		DeleteFunc: func(any) { notify() },
	})
	ctx, cancel := context.WithCancel(context.Background())
	w.cancel = cancel
	o.watchers.Go(func() { w.informer.RunWithContext(ctx) })
	return w
}

// stop ends all watches.
func (o *objects) stop() {
	o.mu.Lock()
	o.stopped = true
	for ref, w := range o.watched {
		w.cancel()
		delete(o.watched, ref)
	}
	o.mu.Unlock()
	o.watchers.Wait()
}

// get returns the object, waiting for the watch's first list. One that does not exist is a *pod.RetryError unless it is
// optional, then nil.
func (o *objects) get(ctx context.Context, ref objectRef, optional bool) (any, error) {
	o.mu.Lock()
	w := o.watched[ref]
	if w == nil {
		o.mu.Unlock()
		return nil, fmt.Errorf("%s %q is not watched", ref.kind(), ref.name)
	}
	next := w.next
	o.mu.Unlock()
	select {
	case <-w.informer.HasSyncedChecker().Done():
	case <-ctx.Done():
		return nil, fmt.Errorf("fetch %s %q: %w", ref.kind(), ref.name, context.Cause(ctx))
	}
	obj, exists, err := w.informer.GetStore().GetByKey(ref.namespace + "/" + ref.name)
	if err != nil {
		return nil, fmt.Errorf("fetch %s %q: %w", ref.kind(), ref.name, err)
	}
	if exists {
		return obj, nil
	}
	if optional {
		return nil, nil
	}
	return nil, &pod.RetryError{Err: fmt.Errorf("%s %q not found", ref.kind(), ref.name), Ready: next}
}
