// Package engine runs controllers: a queue of keys, workers that bring what each key names into its desired state, and
// retries with back-off. A controller is a Loop whose keys come from informer events; it keeps no state but what the API
// holds, so it may stop at any instant and start elsewhere.
package engine

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"fmt"
	"net/netip"
	"sync"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/client/clientset/clientset"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/queueclock"
)

// Deps is what a controller is made from: the Kubernetes API and nothing else. Informers are shared by all controllers;
// what they hand out is read-only.
type Deps struct {
	// Client acts as the controller's own user, so that RBAC limits it to what it needs.
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Extensions reads the definitions of custom resources as that user.
	Extensions apiextensions.Interface
	Informers  informers.SharedInformerFactory
	Recorder   record.EventRecorder
	// RootCA is the PEM bundle that clients in Pods trust for the API server. It is called at each use: the bundle may
	// change while the server runs.
	RootCA func() []byte
	// SignClient and SignServing sign certificates with the keys of the cluster's two authorities: for clients of the API
	// server and of kubelets, and for servers. The answer is PEM.
	SignClient, SignServing func(template *x509.Certificate, public crypto.PublicKey) ([]byte, error)
	// SigningDuration is for how long certificates are valid that are signed here, NodeMonitorGracePeriod for how long a node may
	// be silent. Zero stands for the defaults of who uses them.
	SigningDuration, NodeMonitorGracePeriod time.Duration
	// ClusterCIDR is what nodes' Pod networks are parts of.
	ClusterCIDR netip.Prefix
}

// Runner is a controller: it works until ctx ends and returns once nothing of it runs.
type Runner interface {
	Run(ctx context.Context) error
}

// Loop is the usual controller, whose keys are names of objects.
type Loop = Queue[cache.ObjectName]

// Queue is a running controller's shape: Sync is called with each key that was added, never twice at once for one key,
// again after a back-off when it fails, and after a Retry's time when it returns one.
type Queue[K comparable] struct {
	// Name appears in logs and metrics.
	Name string
	// Workers is how many keys are worked on at once; zero means one.
	Workers int
	// Sync brings what key names into its desired state. It must be idempotent.
	Sync func(ctx context.Context, key K) error
	// Synced says when the informers that feed the loop have their first list.
	Synced []cache.DoneChecker

	queue workqueue.TypedRateLimitingInterface[K]
	once  sync.Once
}

// Back-off of a key that keeps failing.
const (
	retryFirst = 5 * time.Millisecond
	retryMax   = 30 * time.Second
)

// keys returns the queue, which may be filled before Run.
func (l *Queue[K]) keys() workqueue.TypedRateLimitingInterface[K] {
	l.once.Do(func() {
		l.queue = workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[K](retryFirst, retryMax),
			workqueue.TypedRateLimitingQueueConfig[K]{Name: l.Name, Clock: queueclock.Clock{}})
	})
	return l.queue
}

// Add queues a key; it may come before Run.
func (l *Queue[K]) Add(key K) { l.keys().Add(key) }

// AddAfter queues a key once a time has passed.
func (l *Queue[K]) AddAfter(key K, d time.Duration) { l.keys().AddAfter(key, d) }

// Object queues the names of objects, as an informer's handler.
func Object(l *Loop) func(obj any) {
	return func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			l.Add(name)
		}
	}
}

// Namespace queues the namespaces of objects, as an informer's handler.
func Namespace(l *Loop) func(obj any) {
	return func(obj any) {
		if name, err := cache.DeletionHandlingObjectToName(obj); err == nil {
			l.Add(cache.ObjectName{Name: name.Namespace})
		}
	}
}

// Retry is an error of Sync that is none: the key is to be looked at again after a time, since no event will say when.
type Retry struct {
	After time.Duration
	// Why is for the log.
	Why string
}

func (r *Retry) Error() string { return fmt.Sprintf("again in %s: %s", r.After, r.Why) }

// Run works until ctx ends, then returns once every worker has.
func (l *Queue[K]) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithValues("controller", l.Name)
	ctx = klog.NewContext(ctx, logger)
	q := l.keys()
	if !cache.WaitFor(ctx, "", l.Synced...) {
		q.ShutDown()
		return nil
	}
	var workers wait.Group
	for range max(1, l.Workers) {
		workers.StartWithContext(ctx, func(ctx context.Context) {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	q.ShutDown()
	workers.Wait()
	return nil
}

// next works on one key and says whether there may be another.
func (l *Queue[K]) next(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	err := l.Sync(ctx, key)
	var retry *Retry
	switch {
	case err == nil:
		l.queue.Forget(key)
	case errors.As(err, &retry):
		l.queue.Forget(key)
		l.queue.AddAfter(key, retry.After)
	case ctx.Err() != nil:
	default:
		klog.FromContext(ctx).Error(err, "Sync failed, will retry", "key", key, "retries", l.queue.NumRequeues(key))
		l.queue.AddRateLimited(key)
	}
	return true
}

// OnAny calls f with every object that is added, changed or deleted.
func OnAny(f func(obj any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, obj any) { f(obj) }, DeleteFunc: f}
}

// OnSet calls f with every object that is added or changed.
func OnSet(f func(obj any)) cache.ResourceEventHandlerFuncs {
	return cache.ResourceEventHandlerFuncs{AddFunc: f, UpdateFunc: func(_, obj any) { f(obj) }}
}
