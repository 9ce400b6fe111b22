package aggregation

import (
	"context"
	"fmt"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/klog/v2"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"

	"github.com/peapod/peapod/internal/keyqueue"
)

// Upstream's: after what time a server is checked again though nothing has happened, and asked again which kinds it has.
const (
	recheck = 30 * time.Second
	reask   = time.Minute
)

// syncRemote looks at an APIService: whether the server behind it is there, and which kinds it has. What is told of the server comes
// last: who waits for it to be available finds its kinds.
func (a *Aggregator) syncRemote(ctx context.Context, name string) error {
	s := a.services.cached(name)
	if s == nil || s.Spec.Service == nil {
		a.drop(name)
		return nil
	}
	b, err := a.ensure(s)
	if err != nil {
		return err
	}
	was := b.available.Load()
	c := b.condition(ctx)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	now := c.Status == apiregistrationv1.ConditionTrue
	b.available.Store(now)
	asking := a.discover(ctx, s, b, now, now && !was)
	if err := a.tell(ctx, s, c); err != nil {
		return err
	}
	if c.Reason == "FailedDiscoveryCheck" {
		return fmt.Errorf("check APIService %s: %s", name, c.Message) // for the back-off: nothing tells when it is mended
	}
	if asking != nil {
		return asking
	}
	return &keyqueue.Retry{After: recheck, Why: "the network may have changed"}
}

// drop forgets the server behind an APIService.
func (a *Aggregator) drop(name string) {
	b := a.put(name, nil)
	if b == nil {
		return
	}
	a.config.Discovery.WithSource(source).RemoveGroupVersion(metav1.GroupVersion(b.gv))
	a.watches.forget(name, b.service)
	b.close()
}

// ensure returns the server behind an APIService, which requests are led to from now on. One that the object says to be available is,
// until it is found to be otherwise: as this server starts, others are served.
func (a *Aggregator) ensure(s *apiregistrationv1.APIService) (*backend, error) {
	old := a.backend(s.Name)
	if old != nil && equality.Semantic.DeepEqual(old.reached, connection(s)) {
		return old, nil
	}
	watch, err := a.watches.follow(s.Name, serviceOf(s))
	if err != nil {
		return nil, err
	}
	b := newBackend(s, watch, a.config.FrontProxy)
	if old == nil {
		b.available.Store(helper.IsAPIServiceConditionTrue(s, apiregistrationv1.Available))
	} else {
		b.available.Store(old.available.Load())
		b.kinds = old.kinds
	}
	a.put(s.Name, b)
	if old != nil {
		if old.service != watch {
			a.watches.forget(s.Name, old.service)
		}
		old.close()
	}
	return b, nil
}

// tell writes the condition where the object says otherwise.
func (a *Aggregator) tell(ctx context.Context, s *apiregistrationv1.APIService, c apiregistrationv1.APIServiceCondition) error {
	next := s.DeepCopy()
	helper.SetAPIServiceCondition(next, c)
	if equality.Semantic.DeepEqual(s.Status, next.Status) {
		return nil
	}
	klog.FromContext(ctx).V(2).Info("Availability of APIService changes", "name", s.Name, "status", c.Status, "reason", c.Reason, "message", c.Message)
	if _, err := a.services.UpdateStatus(ctx, next, metav1.UpdateOptions{}); err != nil && !overtaken(err) {
		return fmt.Errorf("write status of APIService %s: %w", s.Name, err)
	}
	return nil
}
