package daemon

import (
	"context"
	"net"
	"slices"
	"strconv"

	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/daemon/instance"
)

// followServers has the agent know the cluster's servers, as Service kubernetes leads to them, and remember them for its next
// start.
func (j *joined) followServers(ctx context.Context, i instance.Instance, shared informers.SharedInformerFactory) error {
	see := func(obj any) {
		slice, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok || slice.Namespace != metav1.NamespaceDefault || slice.Labels[discoveryv1.LabelServiceName] != "kubernetes" {
			return
		}
		now := serversOf(slice)
		if len(now) == 0 || slices.Equal(now, j.record.Servers) {
			return
		}
		j.servers.Set(now)
		j.record.Servers = now
		if err := j.record.write(i); err != nil {
			klog.FromContext(ctx).Error(err, "Could not remember the cluster's servers")
		}
	}
	_, err := shared.Discovery().V1().EndpointSlices().Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) },
	})
	return err
}

// serversOf returns the addresses of the API servers that a slice of Service kubernetes names, in order.
func serversOf(slice *discoveryv1.EndpointSlice) []string {
	if len(slice.Ports) == 0 || slice.Ports[0].Port == nil {
		return nil
	}
	port := strconv.Itoa(int(*slice.Ports[0].Port))
	var servers []string
	for _, e := range slice.Endpoints {
		for _, a := range e.Addresses {
			servers = append(servers, net.JoinHostPort(a, port))
		}
	}
	slices.Sort(servers)
	return servers
}
