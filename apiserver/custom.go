package apiserver

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"

	"github.com/peapod/peapod/apiserver/aggregation"
	"github.com/peapod/peapod/apiserver/customresource"
	"github.com/peapod/peapod/apiserver/serviceaddress"
)

// customResources makes the server of custom resources, which takes what this one has no route for.
func (s *Server) customResources(manager aggregated.ResourceManager) (*customresource.Server, error) {
	generic := s.genericConfig()
	generic.AggregatedDiscoveryGroupManager = manager
	services, err := typedcorev1.NewForConfig(generic.LoopbackClientConfig)
	if err != nil {
		return nil, fmt.Errorf("make client that finds webhooks: %w", err)
	}
	return customresource.New(customresource.Config{Generic: generic, Storage: s.config.Storage, Encryption: s.config.Encryption, Services: serviceaddress.New(services)})
}

// listDefinitions puts the group of definitions, which the server of custom resources has routes for, into discovery.
func (s *Server) listDefinitions() {
	gv := metav1.GroupVersionForDiscovery{GroupVersion: apiextensionsv1.SchemeGroupVersion.String(), Version: "v1"}
	s.generic.DiscoveryGroupManager.AddGroup(metav1.APIGroup{
		Name: customresource.Group, Versions: []metav1.GroupVersionForDiscovery{gv}, PreferredVersion: gv,
	})
	group, version := aggregation.Priority(apiextensionsv1.SchemeGroupVersion)
	s.generic.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(metav1.GroupVersion(apiextensionsv1.SchemeGroupVersion), group, version)
}
