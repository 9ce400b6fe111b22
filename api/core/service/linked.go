package service

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// keepAllocated fills in what was allocated before and what an update leaves out, so that a manifest may be applied
// again and again.
func keepAllocated(obj, old *corev1.Service) {
	if wantsClusterIP(old) && wantsClusterIP(obj) {
		if obj.Spec.ClusterIP == "" {
			obj.Spec.ClusterIP = old.Spec.ClusterIP
		}
		if len(obj.Spec.ClusterIPs) == 0 {
			obj.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	}
	if getsNodePorts(old) && getsNodePorts(obj) {
		keepNodePorts(obj, old)
	}
	if wantsHealthCheckPort(old) && wantsHealthCheckPort(obj) && obj.Spec.HealthCheckNodePort == 0 {
		obj.Spec.HealthCheckNodePort = old.Spec.HealthCheckNodePort
	}
}

// keepNodePorts gives each port the node port that the port of its name had, unless another port has taken that.
func keepNodePorts(obj, old *corev1.Service) {
	had := make(map[int32]bool)
	byName := make(map[string]int32)
	for _, p := range old.Spec.Ports {
		had[p.NodePort] = true
		byName[p.Name] = p.NodePort
	}
	taken := make(map[int32]bool)
	for _, p := range obj.Spec.Ports {
		if p.NodePort != 0 && had[p.NodePort] {
			taken[p.NodePort] = true
		}
	}
	for i := range obj.Spec.Ports {
		p := &obj.Spec.Ports[i]
		if before := byName[p.Name]; p.NodePort == 0 && !taken[before] {
			p.NodePort = before
		}
	}
}

// normalize makes clusterIPs follow clusterIP for the clients that know only the latter. Clients that know clusterIPs
// set both; where they disagree validation says so. old is nil on create.
func normalize(obj, old *corev1.Service) {
	if old == nil {
		if obj.Spec.ClusterIP != "" && len(obj.Spec.ClusterIPs) == 0 {
			obj.Spec.ClusterIPs = []string{obj.Spec.ClusterIP}
		}
		return
	}
	switch {
	case obj.Spec.ClusterIP == old.Spec.ClusterIP:
		if len(obj.Spec.ClusterIPs) == 0 {
			obj.Spec.ClusterIPs = slices.Clone(old.Spec.ClusterIPs)
		}
	case !sameClusterIPs(obj, old):
		// Both have changed: the client knows both.
	case obj.Spec.ClusterIP == "":
		obj.Spec.ClusterIPs = nil
	default:
		obj.Spec.ClusterIPs = []string{obj.Spec.ClusterIP}
	}
}

// dropLeftovers clears the fields that the Service's type had a use for, and its new type has none, unless the same
// update changed them too (then validation refuses them). What was allocated for them is released by BeginUpdate.
func dropLeftovers(obj, old *corev1.Service) {
	spec, before := &obj.Spec, &old.Spec
	if wantsClusterIP(old) && !wantsClusterIP(obj) {
		if spec.ClusterIP == before.ClusterIP && sameClusterIPs(obj, old) {
			spec.ClusterIP, spec.ClusterIPs = "", nil
		}
		if sameFamilies(obj, old) {
			spec.IPFamilies = nil
		}
		if equal(spec.IPFamilyPolicy, before.IPFamilyPolicy) {
			spec.IPFamilyPolicy = nil
		}
	}
	if mayHaveNodePorts(old) && !mayHaveNodePorts(obj) && !addsNodePorts(obj, old) {
		for i := range spec.Ports {
			spec.Ports[i].NodePort = 0
		}
	}
	if wantsHealthCheckPort(old) && !wantsHealthCheckPort(obj) &&
		spec.HealthCheckNodePort == before.HealthCheckNodePort {
		spec.HealthCheckNodePort = 0
	}
	if before.Type == corev1.ServiceTypeLoadBalancer && spec.Type != corev1.ServiceTypeLoadBalancer {
		if equal(spec.AllocateLoadBalancerNodePorts, before.AllocateLoadBalancerNodePorts) {
			spec.AllocateLoadBalancerNodePorts = nil
		}
		if equal(spec.LoadBalancerClass, before.LoadBalancerClass) {
			spec.LoadBalancerClass = nil
		}
	}
	if externallyAccessible(old) && !externallyAccessible(obj) &&
		spec.ExternalTrafficPolicy == before.ExternalTrafficPolicy {
		spec.ExternalTrafficPolicy = ""
	}
	if spec.Type != corev1.ServiceTypeLoadBalancer {
		obj.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	}
}

// addsNodePorts says that obj names a node port that old did not have.
func addsNodePorts(obj, old *corev1.Service) bool {
	return slices.ContainsFunc(obj.Spec.Ports, func(p corev1.ServicePort) bool {
		return p.NodePort != 0 && !slices.ContainsFunc(old.Spec.Ports, func(q corev1.ServicePort) bool {
			return q.NodePort == p.NodePort
		})
	})
}
