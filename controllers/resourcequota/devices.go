package resourcequota

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/informers"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"

	costs "github.com/peapod/peapod/api/resource/quota"
	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/synced"
)

// classes follows the DeviceClasses, from the first quota on that bounds an extended resource: without one nobody asks what classes stand for.
type classes struct {
	// changed is called when there is a new class, one has gone, or one stands for something else.
	changed func(old, new *resourcev1.DeviceClass)

	mu     sync.Mutex
	lister resourcelisters.DeviceClassLister
	synced cache.DoneChecker
}

// ensure begins to follow the classes, if they are not followed yet, and waits for the first list.
func (s *classes) ensure(ctx context.Context, shared informers.SharedInformerFactory) error {
	known, err := s.follow(ctx, shared)
	if err != nil {
		return fmt.Errorf("watch device classes: %w", err)
	}
	if !synced.Wait(ctx, synced.Limit, known) {
		return fmt.Errorf("list device classes: no answer within %s", synced.Limit)
	}
	return nil
}

func (s *classes) follow(ctx context.Context, shared informers.SharedInformerFactory) (cache.DoneChecker, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.lister != nil {
		return s.synced, nil
	}
	informer := shared.Resource().V1().DeviceClasses()
	handle, err := informer.Informer().AddEventHandler(engine.OnChange(s.changed))
	if err != nil {
		return nil, err
	}
	s.lister, s.synced = informer.Lister(), handle.HasSyncedChecker()
	shared.StartWithContext(ctx)
	return s.synced, nil
}

// get returns a class. While classes are not followed nothing depends on what they stand for.
func (s *classes) get(name string) (*resourcev1.DeviceClass, error) {
	s.mu.Lock()
	lister := s.lister
	s.mu.Unlock()
	if lister == nil {
		return &resourcev1.DeviceClass{}, nil
	}
	return lister.Get(name)
}

// classChanged looks at the quotas that bound an extended resource: claims of the class count for another one now, or for none.
func (c *controller) classChanged(old, now *resourcev1.DeviceClass) {
	if old != nil && now != nil && ptr.Equal(old.Spec.ExtendedResourceName, now.Spec.ExtendedResourceName) {
		return
	}
	list, err := c.quotas.List(labels.Everything())
	if err != nil {
		return // a lister of a store in memory does not fail
	}
	for _, q := range list {
		if boundsExtended(q) {
			c.loop.Add(cache.MetaObjectToName(q))
		}
	}
}

// boundsExtended says whether the quota bounds an extended resource.
func boundsExtended(q *corev1.ResourceQuota) bool {
	for name := range q.Spec.Hard {
		if costs.ExtendedRequest(name) {
			return true
		}
	}
	return false
}

var _ costs.Devices = &controller{}

// Class implements costs.Devices.
func (c *controller) Class(name string) (*resourcev1.DeviceClass, error) { return c.classes.get(name) }

// Pod implements costs.Devices.
func (c *controller) Pod(namespace, name string) (*corev1.Pod, error) {
	return c.d.Informers.Core().V1().Pods().Lister().Pods(namespace).Get(name)
}

// Claims implements costs.Devices.
func (c *controller) Claims(namespace string) ([]*resourcev1.ResourceClaim, error) {
	return c.d.Informers.Resource().V1().ResourceClaims().Lister().ResourceClaims(namespace).List(labels.Everything())
}
