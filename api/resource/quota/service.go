package quota

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
)

const countServices corev1.ResourceName = "count/services"

var serviceResources = []corev1.ResourceName{
	countServices, corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
}

func serviceEvaluator(list ListFunc) quota.Evaluator {
	services := corev1.Resource("services")
	return &evaluator{
		resource: services, list: listOf(services, list), usage: serviceUsage,
		bounds: func(name corev1.ResourceName) bool { return slices.Contains(serviceResources, name) },
		// A Service's type may change.
		handles: func(a admission.Attributes) bool {
			return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
		},
	}
}

// serviceUsage counts the node ports that a Service asks for: they are not allocated yet when it is charged.
func serviceUsage(obj runtime.Object) (corev1.ResourceList, error) {
	svc, err := typed[*corev1.Service](obj)
	if err != nil {
		return nil, err
	}
	nodePorts, balancers := 0, 0
	switch svc.Spec.Type {
	case corev1.ServiceTypeNodePort:
		nodePorts = len(svc.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		own := svc.Spec.AllocateLoadBalancerNodePorts
		for _, p := range svc.Spec.Ports {
			if own == nil || *own || p.NodePort != 0 {
				nodePorts++
			}
		}
	}
	return corev1.ResourceList{
		countServices: count(1), corev1.ResourceServices: count(1),
		corev1.ResourceServicesNodePorts: count(nodePorts), corev1.ResourceServicesLoadBalancers: count(balancers),
	}, nil
}
