package aggregation

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/endpoints/handlers/negotiation"
	"k8s.io/apiserver/pkg/endpoints/handlers/responsewriters"
	clientdiscovery "k8s.io/client-go/discovery"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
)

// source is that of kinds of servers behind this one: it comes before what this server has of the same version.
const source = aggregated.AggregatorSource

// discover takes the kinds of the server into discovery; of one that is not there, the last that were heard, marked as stale. They are
// asked for if that was long ago, or if now.
func (a *Aggregator) discover(ctx context.Context, s *apiregistrationv1.APIService, b *backend, available, now bool) error {
	var err error
	entry := b.kinds
	entry.Version, entry.Freshness = b.gv.Version, apidiscoveryv2.DiscoveryFreshnessCurrent
	if available && (now || time.Since(b.asked) >= reask) {
		var kinds []apidiscoveryv2.APIResourceDiscovery
		if kinds, err = b.askKinds(ctx); err == nil {
			entry.Resources, b.asked = kinds, time.Now()
		}
	}
	if !available || err != nil {
		entry.Freshness, b.asked = apidiscoveryv2.DiscoveryFreshnessStale, time.Time{}
	}
	b.kinds = entry
	manager := a.config.Discovery.WithSource(source)
	manager.AddGroupVersion(b.gv.Group, entry)
	manager.SetGroupVersionPriority(metav1.GroupVersion(b.gv), int(s.Spec.GroupPriorityMinimum), int(s.Spec.VersionPriority))
	if err != nil {
		return fmt.Errorf("discover kinds of APIService %s: %w", b.name, err)
	}
	return nil
}

// askKinds asks the server for the kinds of its group version: in the form of all groups at once, which older servers do not know, or in
// that of the version.
func (b *backend) askKinds(ctx context.Context) ([]apidiscoveryv2.APIResourceDiscovery, error) {
	a, err := b.get(ctx, "/apis", http.Header{"Accept": {clientdiscovery.AcceptV2}})
	if err != nil {
		return nil, err
	}
	gvk := schema.GroupVersionKind{Group: apidiscoveryv2.GroupName, Version: "v2", Kind: "APIGroupDiscoveryList"}
	if is, _ := clientdiscovery.ContentTypeIsGVK(a.header.Get("Content-Type"), gvk); a.status == http.StatusOK && is {
		list := &apidiscoveryv2.APIGroupDiscoveryList{}
		if err := json.Unmarshal(a.body, list); err != nil {
			return nil, fmt.Errorf("read what it answers on /apis: %w", err)
		}
		return kindsOf(list, b.gv), nil
	}
	a, err = b.get(ctx, b.path(), http.Header{"Accept": {runtime.ContentTypeJSON}})
	if err != nil {
		return nil, err
	}
	if a.status != http.StatusOK {
		return nil, fmt.Errorf("it answers %s with status %d", b.path(), a.status)
	}
	list := &metav1.APIResourceList{}
	if err := json.Unmarshal(a.body, list); err != nil {
		return nil, fmt.Errorf("read what it answers on %s: %w", b.path(), err)
	}
	return endpoints.ConvertGroupVersionIntoToDiscovery(list.APIResources)
}

// kindsOf picks those of a group version. Each has a response kind, if an empty one: old clients count on it.
func kindsOf(list *apidiscoveryv2.APIGroupDiscoveryList, gv schema.GroupVersion) []apidiscoveryv2.APIResourceDiscovery {
	for _, g := range list.Items {
		for _, v := range g.Versions {
			if g.Name != gv.Group || v.Version != gv.Version {
				continue
			}
			for i := range v.Resources {
				r := &v.Resources[i]
				if r.ResponseKind == nil {
					r.ResponseKind = &metav1.GroupVersionKind{}
				}
				for j := range r.Subresources {
					if r.Subresources[j].ResponseKind == nil {
						r.Subresources[j].ResponseKind = &metav1.GroupVersionKind{}
					}
				}
			}
			return v.Resources
		}
	}
	return nil
}

// groupLists answers for /apis and what concerns a group there, from the APIServices, as long as some are behind Services.
type groupLists struct {
	services   *apiServices
	serializer runtime.NegotiatedSerializer
	// groups lists all groups, in either form.
	groups http.Handler
	own    http.Handler
}

func newDiscovery(a *Aggregator, own http.Handler) *groupLists {
	d := &groupLists{services: a.services, serializer: a.config.Serializer, own: own}
	d.groups = aggregated.WrapAggregatedDiscoveryToHandler(http.HandlerFunc(d.list), a.config.Discovery, nil)
	return d
}

func (d *groupLists) list(w http.ResponseWriter, req *http.Request) {
	own := metav1.GroupVersionForDiscovery{GroupVersion: apiregistrationv1.SchemeGroupVersion.String(), Version: apiregistrationv1.SchemeGroupVersion.Version}
	list := &metav1.APIGroupList{Groups: []metav1.APIGroup{{
		Name: Group, Versions: []metav1.GroupVersionForDiscovery{own}, PreferredVersion: own,
	}}}
	for _, services := range helper.SortedByGroupAndVersion(d.services.known()) {
		if services[0].Spec.Group != "" {
			list.Groups = append(list.Groups, groupOf(services))
		}
	}
	d.write(w, req, list)
}

// group answers for one group.
func (d *groupLists) group(name string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, req *http.Request) {
		for _, services := range helper.SortedByGroupAndVersion(d.services.known()) {
			if services[0].Spec.Group == name {
				group := groupOf(services)
				d.write(w, req, &group)
				return
			}
		}
		d.own.ServeHTTP(w, req)
	})
}

// groupOf describes the group of APIServices that are in order.
func groupOf(services []*apiregistrationv1.APIService) metav1.APIGroup {
	g := metav1.APIGroup{Name: services[0].Spec.Group}
	for _, s := range services {
		g.Versions = append(g.Versions, metav1.GroupVersionForDiscovery{
			GroupVersion: s.Spec.Group + "/" + s.Spec.Version, Version: s.Spec.Version,
		})
	}
	g.PreferredVersion = g.Versions[0]
	return g
}

func (d *groupLists) write(w http.ResponseWriter, req *http.Request, obj runtime.Object) {
	responsewriters.WriteObjectNegotiated(d.serializer, negotiation.DefaultEndpointRestrictions, schema.GroupVersion{}, w, req, http.StatusOK, obj, false)
}
