package loadbalancer

import (
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/tools/cache"
	"k8s.io/utils/ptr"
)

// onlyLocal says whether a Service has a load balancer that is to lead to the nodes of its endpoints alone.
func onlyLocal(svc *corev1.Service) bool {
	return balance(svc) == wanted && svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// onSlice calls changed when endpoints of such a Service may have come to a node or left it.
func (c *controller) onSlice(changed func()) cache.ResourceEventHandlerFuncs {
	see := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		s, ok := obj.(*discoveryv1.EndpointSlice)
		if !ok {
			return
		}
		if svc, ok, err := c.services.GetByKey(s.Namespace + "/" + s.Labels[discoveryv1.LabelServiceName]); err == nil && ok && onlyLocal(svc.(*corev1.Service)) {
			changed()
		}
	}
	return cache.ResourceEventHandlerFuncs{AddFunc: see, UpdateFunc: func(_, obj any) { see(obj) }, DeleteFunc: see}
}

// serving are the nodes at which a Service is answered from outside: nil for all. It looks at the slices of the Service's namespace; most
// clusters have few Services of this kind or none.
func (c *controller) serving(svc *corev1.Service) map[string]bool {
	if !onlyLocal(svc) {
		return nil
	}
	all, err := c.slices.EndpointSlices(svc.Namespace).List(labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: svc.Name}))
	if err != nil {
		return nil // a cache that is there does not fail
	}
	nodes := map[string]bool{}
	for _, s := range all {
		for i := range s.Endpoints {
			e := &s.Endpoints[i]
			isReady := ptr.Deref(e.Conditions.Ready, true)
			// The proxy sends to endpoints that end while the node has no other.
			if ends := ptr.Deref(e.Conditions.Serving, isReady) && ptr.Deref(e.Conditions.Terminating, false); e.NodeName != nil && (isReady || ends) {
				nodes[*e.NodeName] = true
			}
		}
	}
	if len(nodes) == 0 {
		return nil
	}
	return nodes
}
