// Package keyqueue runs a function on keys: a queue that takes each key once, workers, and retries with back-off.
package keyqueue

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/queueclock"
)

// Queue calls Sync with each key that was added, never twice at once for one key, again after a back-off when it fails, and
// after a Retry's time when it returns one.
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
