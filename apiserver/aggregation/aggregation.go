// Package aggregation lets other API servers answer for group versions of their own below this one's /apis: the aggregation layer.
//
// An APIService says who answers for a group version. For what this server answers itself, it keeps the objects in step with what
// it serves ("Local"). For what is behind a Service it checks that the server is there, tells so in the object's status, takes its
// kinds into discovery and OpenAPI, and forwards requests, once these were authenticated and authorized here. The server behind is
// told who asks in headers, which it believes because of the client certificate that comes with them.
//
// Without an APIService that is behind a Service none of this runs: a request passes one atomic read.
package aggregation

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"

	"github.com/peapod/peapod/internal/keyqueue"
)

// Config is what an Aggregator is made from. What is not marked optional must be set.
type Config struct {
	// Client calls the server that the Aggregator is part of, as a member of system:masters.
	Client *rest.Config
	// Builtin are the group versions that the server has by itself; Custom tells of those that users define.
	Builtin []schema.GroupVersion
	Custom  Custom
	// Yielding are those of Builtin that other servers may take over, by APIServices that are not put right: until these are deleted.
	Yielding []schema.GroupVersion
	// Discovery is the server's.
	Discovery aggregated.ResourceManager
	// Serializer encodes answers.
	Serializer runtime.NegotiatedSerializer
	// FrontProxy is the client certificate that is shown to servers behind this one. Optional: without it they know nobody.
	FrontProxy dynamiccertificates.CertKeyContentProvider
}

// Custom tells which custom resources are defined.
type Custom interface {
	// Known is closed once those are known that were defined when the server started.
	Known() <-chan struct{}
	// OnChange has f called whenever what Established returns may have changed.
	OnChange(f func([]*apiextensionsv1.CustomResourceDefinition)) error
	Established() []*apiextensionsv1.CustomResourceDefinition
}

// Aggregator is the aggregation layer of one server.
type Aggregator struct {
	config   Config
	services *apiServices
	local    *registrar
	remote   keyqueue.Queue[string]
	watches  *watches

	// routes leads to the servers behind this one; nil: there are none.
	routes atomic.Pointer[routes]

	mu sync.Mutex
	// backends are the servers behind this one, by the names of their APIServices.
	backends map[string]*backend
}

// remoteWorkers is how many servers are checked at once: one that does not answer takes seconds.
const remoteWorkers = 5

// New does nothing yet.
func New(c Config) (*Aggregator, error) {
	if c.Client == nil || c.Custom == nil || c.Discovery == nil || c.Serializer == nil {
		return nil, errors.New("make aggregation layer: Client, Custom, Discovery and Serializer are needed")
	}
	a := &Aggregator{config: c, backends: map[string]*backend{}}
	var err error
	if a.services, err = newAPIServices(c.Client); err != nil {
		return nil, err
	}
	if a.local, err = newRegistrar(a.services, c); err != nil {
		return nil, err
	}
	a.remote = keyqueue.Queue[string]{Name: "remote-api-services", Workers: remoteWorkers, Sync: a.syncRemote}
	a.watches = newWatches(func() (kubernetes.Interface, error) { return kubernetes.NewForConfig(c.Client) }, a.remote.Add)
	handle, err := a.services.informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: a.changed, UpdateFunc: func(_, obj any) { a.changed(obj) }, DeleteFunc: a.changed,
	})
	if err != nil {
		return nil, fmt.Errorf("watch APIServices: %w", err)
	}
	a.remote.Synced = []cache.DoneChecker{handle.HasSyncedChecker()}
	return a, nil
}

// changed looks at an APIService, which may be gone, from both sides.
func (a *Aggregator) changed(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		return
	}
	s, ok := obj.(*apiregistrationv1.APIService)
	if ok {
		a.local.lend(s)
	}
	a.local.queue.Add(name.Name)
	// Most are local: only what is, or was, behind a Service is looked at.
	if ok && s.Spec.Service == nil && a.backend(name.Name) == nil {
		return
	}
	a.remote.Add(name.Name)
}

// Registered is closed once there is an APIService of each group version that the server has by itself.
func (a *Aggregator) Registered() <-chan struct{} { return a.local.registered }

// Run follows the APIServices until ctx ends. The server must answer calls within the process.
func (a *Aggregator) Run(ctx context.Context) {
	var running sync.WaitGroup
	running.Go(func() { a.services.informer.RunWithContext(ctx) })
	running.Go(func() { a.local.run(ctx) })
	running.Go(func() { _ = a.remote.Run(ctx) }) // ends with ctx only
	running.Wait()
	a.watches.close()
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, b := range a.backends {
		b.close()
	}
}

// Wrap puts the aggregation layer before the server's own handler, behind authentication and authorization.
func (a *Aggregator) Wrap(own http.Handler) http.Handler {
	d := sync.OnceValue(func() *groupLists { return newDiscovery(a, own) }) // it has codecs of its own
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		r := a.routes.Load()
		if r == nil {
			own.ServeHTTP(w, req)
			return
		}
		r.find(req, d, own).ServeHTTP(w, req)
	})
}

func (a *Aggregator) backend(name string) *backend {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.backends[name]
}

// put makes b the server behind an APIService, or none if it is nil, and returns the one that there was.
func (a *Aggregator) put(name string, b *backend) (old *backend) {
	a.mu.Lock()
	defer a.mu.Unlock()
	old = a.backends[name]
	if b == nil {
		delete(a.backends, name)
	} else {
		a.backends[name] = b
	}
	if len(a.backends) == 0 {
		a.routes.Store(nil)
		return old
	}
	next := &routes{versions: map[schema.GroupVersion]*backend{}, groups: map[string]bool{}}
	for _, one := range a.backends {
		next.versions[one.gv], next.groups[one.gv.Group] = one, true
	}
	a.routes.Store(next)
	return old
}

// all returns the servers behind this one, in the order of the names of their APIServices.
func (a *Aggregator) all() []*backend {
	a.mu.Lock()
	defer a.mu.Unlock()
	names := make([]string, 0, len(a.backends))
	for name := range a.backends {
		names = append(names, name)
	}
	slices.Sort(names)
	out := make([]*backend, len(names))
	for i, name := range names {
		out[i] = a.backends[name]
	}
	return out
}
