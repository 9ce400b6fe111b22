package volume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	certificatesinformers "k8s.io/client-go/informers/certificates/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/kubelet/pod"
)

// kind is one of the kinds that volumes are made from, as errors name it.
type kind string

const (
	configMapKind kind = "configmap"
	secretKind    kind = "secret"
	claimKind     kind = "persistentvolumeclaims"
	volumeKind    kind = "persistentvolumes"
	bundleKind    kind = "clustertrustbundles"
	// signerKind stands for all trust bundles of the signer of that name.
	signerKind  kind = "clustertrustbundles of signer"
	requestKind kind = "podcertificaterequests"
)

// objectRef names an object. Persistent volumes and trust bundles have no namespace.
type objectRef struct {
	kind            kind
	namespace, name string
}

// refsOf returns the config maps, secrets and trust bundles that the Pod's volumes are made from, each once.
func refsOf(p *v1.Pod) []objectRef {
	var out []objectRef
	addTo := func(namespace string, k kind, name string) {
		if r := (objectRef{k, namespace, name}); name != "" && !slices.Contains(out, r) {
			out = append(out, r)
		}
	}
	add := func(k kind, name string) { addTo(p.Namespace, k, name) }
	for i := range p.Spec.Volumes {
		v := &p.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			add(configMapKind, v.ConfigMap.Name)
		case v.Secret != nil:
			add(secretKind, v.Secret.SecretName)
		case v.Projected != nil:
			for _, s := range v.Projected.Sources {
				if s.ConfigMap != nil {
					add(configMapKind, s.ConfigMap.Name)
				}
				if s.Secret != nil {
					add(secretKind, s.Secret.Name)
				}
				if b := s.ClusterTrustBundle; b != nil {
					addTo("", bundleKind, ptr.Deref(b.Name, ""))
					addTo("", signerKind, ptr.Deref(b.SignerName, ""))
				}
			}
		}
	}
	return out
}

// objects watches single objects, and the trust bundles of single signers, each for as long as a Pod refers to them: a node
// may read few others.
type objects struct {
	client  kubernetes.Interface
	node    string
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
	// next is closed at the object's next change, or when denied changes.
	next chan struct{}
	// denied is why the API server does not let the node read the object; nil once it does.
	denied error
}

func newObjects(client kubernetes.Interface, node string, changed func(types.UID)) *objects {
	return &objects{client: client, node: node, changed: changed, watched: map[objectRef]*watched{}}
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
	selector := fields.OneTermEqualSelector(metav1.ObjectNameField, ref.name)
	switch ref.kind {
	case signerKind:
		selector = fields.OneTermEqualSelector("spec.signerName", ref.name)
	case requestKind:
		// Without it a node may read none.
		selector = fields.AndSelectors(selector, fields.OneTermEqualSelector("spec.nodeName", o.node))
	}
	one := func(opts *metav1.ListOptions) { opts.FieldSelector = selector.String() }
	indexers := cache.Indexers{}
	w := &watched{users: map[types.UID]bool{}, next: make(chan struct{})}
	switch ref.kind {
	case secretKind:
		w.informer = coreinformers.NewFilteredSecretInformer(o.client, ref.namespace, 0, indexers, one)
	case configMapKind:
		w.informer = coreinformers.NewFilteredConfigMapInformer(o.client, ref.namespace, 0, indexers, one)
	case claimKind:
		w.informer = coreinformers.NewFilteredPersistentVolumeClaimInformer(o.client, ref.namespace, 0, indexers, one)
	case volumeKind:
		w.informer = coreinformers.NewFilteredPersistentVolumeInformer(o.client, 0, indexers, one)
	case bundleKind, signerKind:
		w.informer = certificatesinformers.NewFilteredClusterTrustBundleInformer(o.client, 0, indexers, one)
	case requestKind:
		w.informer = certificatesinformers.NewFilteredPodCertificateRequestInformer(o.client, ref.namespace, 0, indexers, one)
	}
	notify := func(denied error) {
		o.mu.Lock()
		defer o.mu.Unlock()
		w.denied = denied
		close(w.next)
		w.next = make(chan struct{})
		for uid := range w.users {
			o.changed(uid)
		}
	}
	// It cannot fail: the informer has not been started.
	_ = w.informer.SetWatchErrorHandlerWithContext(func(ctx context.Context, r *cache.Reflector, err error) {
		cache.DefaultWatchErrorHandler(ctx, r, err)
		if apierrors.IsForbidden(err) {
			notify(err)
		}
	})
	// The handler cannot fail to be added: the informer has not been stopped.
	_, _ = w.informer.AddEventHandler(cache.ResourceEventHandlerDetailedFuncs{
		AddFunc: func(_ any, initial bool) {
			if !initial || o.denied(w) {
				notify(nil)
			}
		},
		UpdateFunc: func(_, _ any) { notify(nil) },
		DeleteFunc: func(any) { notify(nil) },
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

func (o *objects) denied(w *watched) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	return w.denied != nil
}

// get returns the object, waiting for the watch's first list, and what is closed at its next change. One that does not
// exist, or that the node may not read, is a *pod.RetryError.
func (o *objects) get(ctx context.Context, ref objectRef) (obj any, next <-chan struct{}, err error) {
	store, changed, err := o.await(ctx, ref)
	if err != nil {
		return nil, nil, err
	}
	obj, exists, err := store.GetByKey(cache.NewObjectName(ref.namespace, ref.name).String())
	if err != nil {
		return nil, nil, fmt.Errorf("fetch %s %q: %w", ref.kind, ref.name, err)
	}
	if !exists {
		return nil, nil, &pod.RetryError{Err: &notFoundError{ref}, Ready: changed}
	}
	return obj, changed, nil
}

// await waits for the first list of a watch, and returns what it shows and what is closed at its next change.
func (o *objects) await(ctx context.Context, ref objectRef) (cache.Store, <-chan struct{}, error) {
	for {
		o.mu.Lock()
		w := o.watched[ref]
		if w == nil {
			o.mu.Unlock()
			return nil, nil, fmt.Errorf("%s %q is not watched", ref.kind, ref.name)
		}
		changed, denied := w.next, w.denied
		o.mu.Unlock()
		if denied != nil {
			return nil, nil, &pod.RetryError{Err: denied, Ready: changed}
		}
		select {
		case <-w.informer.HasSyncedChecker().Done():
			return w.informer.GetStore(), changed, nil
		case <-changed:
		case <-ctx.Done():
			return nil, nil, fmt.Errorf("fetch %s %q: %w", ref.kind, ref.name, context.Cause(ctx))
		}
	}
}

// notFoundError says that an object does not exist.
type notFoundError struct{ ref objectRef }

func (e *notFoundError) Error() string { return fmt.Sprintf("%s %q not found", e.ref.kind, e.ref.name) }

// getOptional is get, where an object that does not exist and is optional is nil.
func (o *objects) getOptional(ctx context.Context, ref objectRef, optional bool) (any, error) {
	obj, _, err := o.get(ctx, ref)
	var missing *notFoundError
	if optional && errors.As(err, &missing) {
		return nil, nil
	}
	return obj, err
}
