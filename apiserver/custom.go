package apiserver

import (
	"context"
	"fmt"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/util/proxy"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/apiserver/customresource"
)

// customResources makes the server of custom resources, which takes what this one has no route for.
func (s *Server) customResources(manager aggregated.ResourceManager) (*customresource.Server, error) {
	generic := s.genericConfig()
	generic.AggregatedDiscoveryGroupManager = manager
	return customresource.New(customresource.Config{Generic: generic, Storage: s.config.Storage, Services: serviceResolver{s}})
}

// listDefinitions puts the group of definitions, which the server of custom resources has routes for, into discovery.
func (s *Server) listDefinitions(priority int) {
	gv := metav1.GroupVersionForDiscovery{GroupVersion: apiextensionsv1.SchemeGroupVersion.String(), Version: "v1"}
	s.generic.DiscoveryGroupManager.AddGroup(metav1.APIGroup{
		Name: customresource.Group, Versions: []metav1.GroupVersionForDiscovery{gv}, PreferredVersion: gv,
	})
	s.generic.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(metav1.GroupVersion(apiextensionsv1.SchemeGroupVersion), priority, 100)
}

// serviceResolver finds where a Service is reached from here: at its cluster IP.
type serviceResolver struct{ server *Server }

// resolveLimit bounds one read of a Service from the store.
const resolveLimit = 10 * time.Second

// ResolveEndpoint implements webhook.ServiceResolver.
func (r serviceResolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	services := r.server.store(schema.GroupResource{Resource: "services"})
	if services == nil {
		return nil, fmt.Errorf("find service %s/%s: this server has no services", namespace, name)
	}
	ctx, cancel := context.WithTimeout(request.WithNamespace(context.Background(), namespace), resolveLimit)
	defer cancel()
	found, err := services.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	one := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	if err := one.Add(found.(*corev1.Service)); err != nil {
		return nil, err
	}
	return proxy.ResolveCluster(corev1listers.NewServiceLister(one), namespace, name, port)
}
