// Package endpointslicemirroring copies Endpoints that users keep by hand, for Services without a selector, into
// EndpointSlices, which is all that the service proxy and DNS read (KEP-752).
package endpointslicemirroring

import (
	"context"
	"errors"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap
// role of the same name fits.
const Name = "endpointslicemirroring-controller"

const (
	// manager is the value of the label by which a slice says who keeps it; it is part of the API.
	manager = "endpointslicemirroring-controller.k8s.io"
	workers = 5
	// byEndpoints is the index of slices by namespace and name of the Service, which is that of the Endpoints.
	byEndpoints = "endpointslicemirroring-controller/service"
)

type controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    cache.Indexer
	loop      *engine.Loop
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	services, endpoints := d.Informers.Core().V1().Services(), d.Informers.Core().V1().Endpoints()
	slices := d.Informers.Discovery().V1().EndpointSlices()
	if err := slices.Informer().AddIndexers(cache.Indexers{byEndpoints: func(obj any) ([]string, error) {
		return []string{nameOf(obj.(*discoveryv1.EndpointSlice)).String()}, nil
	}}); err != nil {
		return nil, fmt.Errorf("index endpoint slices: %w", err)
	}
	c := &controller{client: d.Client, services: services.Lister(), endpoints: endpoints.Lister(), slices: slices.Informer().GetIndexer()}
	c.loop = &engine.Loop{Name: Name, Workers: workers, Sync: c.sync}
	queue := engine.OnAny(engine.Object(c.loop))
	for informer, handler := range map[cache.SharedIndexInformer]cache.ResourceEventHandler{
		services.Informer(): queue, endpoints.Informer(): queue, slices.Informer(): engine.OnAny(c.sliceChanged),
	} {
		r, err := informer.AddEventHandler(handler)
		if err != nil {
			return nil, fmt.Errorf("watch for endpoints to mirror: %w", err)
		}
		c.loop.Synced = append(c.loop.Synced, r.HasSyncedChecker())
	}
	return c.loop, nil
}

func nameOf(s *discoveryv1.EndpointSlice) cache.ObjectName {
	return cache.ObjectName{Namespace: s.Namespace, Name: s.Labels[discoveryv1.LabelServiceName]}
}

// sliceChanged looks at what this controller keeps again, whoever changed it.
func (c *controller) sliceChanged(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if s, ok := obj.(*discoveryv1.EndpointSlice); ok && s.Labels[discoveryv1.LabelManagedBy] == manager {
		c.loop.Add(nameOf(s))
	}
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	existing, err := c.existing(key)
	if err != nil {
		return err
	}
	source, err := c.source(key)
	if err != nil {
		return err
	}
	var want []*discoveryv1.EndpointSlice
	if source != nil {
		want = mirror(source)
	}
	var errs []error
	for _, step := range plan(want, existing) {
		if err := c.do(ctx, step); err != nil {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// existing are the slices that this controller made for the Endpoints.
func (c *controller) existing(key cache.ObjectName) ([]*discoveryv1.EndpointSlice, error) {
	objs, err := c.slices.ByIndex(byEndpoints, key.String())
	if err != nil {
		return nil, fmt.Errorf("list endpoint slices of service %s: %w", key, err)
	}
	var own []*discoveryv1.EndpointSlice
	for _, obj := range objs {
		if s := obj.(*discoveryv1.EndpointSlice); s.Labels[discoveryv1.LabelManagedBy] == manager && s.DeletionTimestamp == nil {
			own = append(own, s)
		}
	}
	return own, nil
}

// source returns the Endpoints of that name if they are to be mirrored, else nil.
func (c *controller) source(key cache.ObjectName) (*corev1.Endpoints, error) {
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && svc.Spec.Selector != nil {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read service %s: %w", key, err)
	}
	e, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read endpoints %s: %w", key, err)
	}
	if _, election := e.Annotations["control-plane.alpha.kubernetes.io/leader"]; election || e.Labels[discoveryv1.LabelSkipMirror] == "true" {
		return nil, nil
	}
	return e, nil
}

// do takes one step. Where the cache lags behind there is nothing to do: the event that brings it up to date queues the
// Endpoints again.
func (c *controller) do(ctx context.Context, s step) error {
	api := c.client.DiscoveryV1().EndpointSlices(s.slice.Namespace)
	var err error
	switch s.verb {
	case create:
		_, err = api.Create(ctx, s.slice, metav1.CreateOptions{})
	case update:
		_, err = api.Update(ctx, s.slice, metav1.UpdateOptions{})
	case remove:
		err = api.Delete(ctx, s.slice.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(s.slice.UID))})
	}
	if err == nil || apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) ||
		apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	return fmt.Errorf("%s endpoint slice %s/%s: %w", s.verb, s.slice.Namespace, s.slice.Name, err)
}
