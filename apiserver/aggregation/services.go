package aggregation

import (
	"context"
	"fmt"
	"slices"
	"sync"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	coreinformers "k8s.io/client-go/informers/core/v1"
	discoveryinformers "k8s.io/client-go/informers/discovery/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/internal/synced"
)

// watches follow the Services that some APIService names, and their endpoints: these and no others, so that a cluster without any
// pays nothing.
type watches struct {
	// connect makes the client, when there is something to follow.
	connect func() (kubernetes.Interface, error)
	// changed is called with the names of the APIServices whose Service, or an endpoint of it, may have changed.
	changed func(apiService string)

	mu       sync.Mutex
	client   kubernetes.Interface
	services map[types.NamespacedName]*serviceWatch
	running  sync.WaitGroup
}

// serviceWatch follows one Service and its endpoints.
type serviceWatch struct {
	name            types.NamespacedName
	service, slices cache.SharedIndexInformer
	synced          []cache.DoneChecker
	stop            context.CancelFunc
	// users are the APIServices that name the Service.
	users map[string]bool
}

func newWatches(connect func() (kubernetes.Interface, error), changed func(string)) *watches {
	return &watches{connect: connect, changed: changed, services: map[types.NamespacedName]*serviceWatch{}}
}

// follow has a Service followed for an APIService, until forget.
func (w *watches) follow(apiService string, service types.NamespacedName) (*serviceWatch, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if s := w.services[service]; s != nil {
		s.users[apiService] = true
		return s, nil
	}
	if w.client == nil {
		var err error
		if w.client, err = w.connect(); err != nil {
			return nil, fmt.Errorf("make client that follows services: %w", err)
		}
	}
	s := &serviceWatch{name: service, users: map[string]bool{apiService: true}}
	s.service = coreinformers.NewFilteredServiceInformer(w.client, service.Namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, service.Name).String()
	})
	s.slices = discoveryinformers.NewFilteredEndpointSliceInformer(w.client, service.Namespace, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
		o.LabelSelector = labels.Set{discoveryv1.LabelServiceName: service.Name}.String()
	})
	for _, informer := range []cache.SharedIndexInformer{s.service, s.slices} {
		tell := func(any) { w.tell(s) }
		handle, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
			AddFunc: tell, UpdateFunc: func(_, obj any) { tell(obj) }, DeleteFunc: tell,
		})
		if err != nil {
			return nil, fmt.Errorf("follow service %s: %w", service, err)
		}
		s.synced = append(s.synced, handle.HasSyncedChecker())
	}
	ctx, stop := context.WithCancel(context.Background()) // ended by forget or close
	s.stop = stop
	w.services[service] = s
	w.running.Go(func() { s.service.RunWithContext(ctx) })
	w.running.Go(func() { s.slices.RunWithContext(ctx) })
	return s, nil
}

func (w *watches) tell(s *serviceWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for name := range s.users {
		w.changed(name)
	}
}

// forget ends following a Service for an APIService.
func (w *watches) forget(apiService string, s *serviceWatch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(s.users, apiService)
	if len(s.users) == 0 && w.services[s.name] == s {
		s.stop()
		delete(w.services, s.name)
	}
}

// close ends all and waits for it.
func (w *watches) close() {
	w.mu.Lock()
	for _, s := range w.services {
		s.stop()
	}
	w.mu.Unlock()
	w.running.Wait()
}

// known waits until the Service and its endpoints have been read.
func (s *serviceWatch) known(ctx context.Context) bool {
	return synced.Wait(ctx, synced.Limit, s.synced...)
}

// current returns the Service; nil if there is none.
func (s *serviceWatch) current() *corev1.Service {
	obj, ok, err := s.service.GetStore().GetByKey(s.name.String())
	if err != nil || !ok {
		return nil // A store in memory does not fail.
	}
	return obj.(*corev1.Service)
}

// endpoints says whether there are slices, and whether an endpoint of the port is ready.
func (s *serviceWatch) endpoints(port string) (any, ready bool) {
	for _, obj := range s.slices.GetStore().List() {
		any = true
		slice := obj.(*discoveryv1.EndpointSlice)
		ready = ready || slices.ContainsFunc(slice.Endpoints, func(e discoveryv1.Endpoint) bool {
			return e.Conditions.Ready == nil || *e.Conditions.Ready
		}) && slices.ContainsFunc(slice.Ports, func(p discoveryv1.EndpointPort) bool {
			return p.Name != nil && *p.Name == port && p.Port != nil
		})
	}
	return any, ready
}
