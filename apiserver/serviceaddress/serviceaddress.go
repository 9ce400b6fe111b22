// Package serviceaddress finds where the server reaches a Service that a webhook is behind: at its cluster IP.
package serviceaddress

import (
	"context"
	"net/url"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/util/proxy"
	"k8s.io/apiserver/pkg/util/webhook"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	corev1listers "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
)

// limit bounds one read of a Service.
const limit = 10 * time.Second

type resolver struct{ services typedcorev1.ServicesGetter }

// New returns a resolver that reads the Service whenever a connection to it is made: seldom enough, for connections are kept, that
// no copy of all Services need be.
func New(services typedcorev1.ServicesGetter) webhook.ServiceResolver { return resolver{services} }

// ResolveEndpoint implements webhook.ServiceResolver.
func (r resolver) ResolveEndpoint(namespace, name string, port int32) (*url.URL, error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	found, err := r.services.Services(namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	one := cache.NewIndexer(cache.MetaNamespaceKeyFunc, cache.Indexers{})
	if err := one.Add(found); err != nil {
		return nil, err
	}
	return proxy.ResolveCluster(corev1listers.NewServiceLister(one), namespace, name, port)
}
