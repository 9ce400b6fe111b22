// Package endpoints keeps the Endpoints objects of Services that select Pods. They are what EndpointSlices have replaced;
// clients that have not followed yet read them.
package endpoints

import (
	"context"
	"fmt"
	"maps"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/endpointslice/util"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap
// role of the same name fits.
const Name = "endpoint-controller"

// Labels and annotations of the objects, which are part of the API.
const (
	labelManagedBy = "endpoints.kubernetes.io/managed-by"
	overCapacity   = corev1.EndpointsOverCapacity
	truncated      = "truncated"
	// maxAddresses is how many addresses one object holds.
	maxAddresses = 1000
	workers      = 5
)

type controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	loop      *engine.Loop
	times     *util.TriggerTimeTracker
}

// New returns the controller.
func New(d engine.Deps) (engine.Runner, error) {
	services, pods, endpoints := d.Informers.Core().V1().Services(), d.Informers.Core().V1().Pods(), d.Informers.Core().V1().Endpoints()
	c := &controller{
		client: d.Client, services: services.Lister(), pods: pods.Lister(), endpoints: endpoints.Lister(), times: util.NewTriggerTimeTracker(),
	}
	c.loop = &engine.Loop{Name: Name, Workers: workers, Sync: c.sync}
	handlers := []struct {
		informer cache.SharedIndexInformer
		handler  cache.ResourceEventHandler
	}{
		{services.Informer(), engine.OnAny(engine.Object(c.loop))},
		{pods.Informer(), cache.ResourceEventHandlerFuncs{
			AddFunc:    func(obj any) { c.podChanged(nil, obj) },
			UpdateFunc: c.podChanged,
			DeleteFunc: func(obj any) {
				if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
					obj = gone.Obj
				}
				c.podChanged(nil, obj)
			},
		}},
		// What others change is put right, and what the cache lagged behind is looked at again.
		{endpoints.Informer(), engine.OnAny(c.endpointsChanged)},
	}
	for _, h := range handlers {
		r, err := h.informer.AddEventHandler(h.handler)
		if err != nil {
			return nil, fmt.Errorf("watch for endpoints: %w", err)
		}
		c.loop.Synced = append(c.loop.Synced, r.HasSyncedChecker())
	}
	return c.loop, nil
}

// podChanged queues the Services that select the Pod, before or after the change.
func (c *controller) podChanged(old, obj any) {
	key := util.GetPodUpdateProjectionKey(old, obj)
	if key == nil {
		return
	}
	names, err := util.GetServicesToUpdate(c.services, key)
	if err != nil {
		klog.Background().Error(err, "Cannot find the services of a pod", "controller", Name, "namespace", key.Namespace)
		return
	}
	for name := range names {
		if key, err := cache.ParseObjectName(name); err == nil {
			c.loop.Add(key)
		}
	}
}

// endpointsChanged queues the Service of Endpoints, also where it is gone.
func (c *controller) endpointsChanged(obj any) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	if e, ok := obj.(*corev1.Endpoints); ok && e.Labels[labelManagedBy] == Name {
		c.loop.Add(cache.ObjectName{Namespace: e.Namespace, Name: e.Name})
	}
}

func (c *controller) sync(ctx context.Context, key cache.ObjectName) error {
	svc, err := c.services.Services(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) {
		c.times.DeleteService(key.Namespace, key.Name)
		return c.remove(ctx, key)
	}
	if err != nil {
		return fmt.Errorf("read service %s: %w", key, err)
	}
	if svc.Spec.Selector == nil {
		return nil
	}
	pods, err := c.pods.Pods(key.Namespace).List(labels.Set(svc.Spec.Selector).AsSelectorPreValidated())
	if err != nil {
		return fmt.Errorf("list pods of service %s: %w", key, err)
	}
	trigger := c.times.ComputeEndpointLastChangeTriggerTime(key.Namespace, svc, pods)
	old, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("read endpoints %s: %w", key, err)
	}
	want := desired(svc, pods, old, trigger)
	if old == nil {
		_, err = c.client.CoreV1().Endpoints(key.Namespace).Create(ctx, want, metav1.CreateOptions{})
	} else if !same(old, want) {
		_, err = c.client.CoreV1().Endpoints(key.Namespace).Update(ctx, want, metav1.UpdateOptions{})
	} else {
		return nil
	}
	if apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err) || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil // the cache lags behind, and the event that brings it up to date queues the Service again
	}
	if err != nil {
		return fmt.Errorf("write endpoints %s: %w", key, err)
	}
	return nil
}

// remove deletes the Endpoints of a Service that is gone, if this controller made them.
func (c *controller) remove(ctx context.Context, key cache.ObjectName) error {
	old, err := c.endpoints.Endpoints(key.Namespace).Get(key.Name)
	if apierrors.IsNotFound(err) || err == nil && old.Labels[labelManagedBy] != Name {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read endpoints %s: %w", key, err)
	}
	err = c.client.CoreV1().Endpoints(key.Namespace).Delete(ctx, key.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(old.UID))})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete endpoints %s: %w", key, err)
	}
	return nil
}

// desired is the object for a Service and its Pods; old may be nil.
func desired(svc *corev1.Service, pods []*corev1.Pod, old *corev1.Endpoints, trigger time.Time) *corev1.Endpoints {
	want := &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: svc.Name, Namespace: svc.Namespace}}
	if old != nil {
		want = old.DeepCopy()
	}
	all := subsets(svc, pods)
	want.Labels = maps.Clone(svc.Labels)
	if want.Labels == nil {
		want.Labels = map[string]string{}
	}
	want.Labels[labelManagedBy] = Name
	delete(want.Labels, corev1.IsHeadlessService)
	if svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" && svc.Spec.Type != corev1.ServiceTypeExternalName {
		want.Labels[corev1.IsHeadlessService] = ""
	}
	if want.Annotations == nil {
		want.Annotations = map[string]string{}
	}
	if !trigger.IsZero() {
		want.Annotations[corev1.EndpointsLastChangeTriggerTime] = trigger.UTC().Format(time.RFC3339Nano)
	} else {
		delete(want.Annotations, corev1.EndpointsLastChangeTriggerTime)
	}
	delete(want.Annotations, overCapacity)
	if truncate(all) {
		want.Annotations[overCapacity] = truncated
	}
	want.Subsets = compact(all)
	return want
}

// same says whether an update would change nothing that matters: the time of a trigger alone does not.
func same(old, want *corev1.Endpoints) bool {
	a, b := maps.Clone(old.Annotations), maps.Clone(want.Annotations)
	delete(a, corev1.EndpointsLastChangeTriggerTime)
	delete(b, corev1.EndpointsLastChangeTriggerTime)
	return maps.Equal(old.Labels, want.Labels) && maps.Equal(a, b) && equality.Semantic.DeepEqual(old.Subsets, want.Subsets)
}
