package podspec

import (
	corev1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	v "github.com/peapod/peapod/api/validation"
)

// DefaultPod fills in what the user left out of a Pod: what DefaultSpec does and, for Pods alone, requests from limits.
func DefaultPod(p *corev1.Pod) {
	DefaultSpec(&p.Spec)
	for i := range p.Spec.InitContainers {
		requestsFromLimits(&p.Spec.InitContainers[i].Resources)
	}
	for i := range p.Spec.Containers {
		requestsFromLimits(&p.Spec.Containers[i].Resources)
	}
	if r := p.Spec.Resources; r != nil {
		defaultPodHugePages(p, r)
		defaultPodRequests(p, r)
	}
	setIfNil(&p.Spec.EnableServiceLinks, corev1.DefaultEnableServiceLinks)
	if p.Spec.HostNetwork {
		defaultHostPorts(&p.Spec)
	}
	// Long ago a negative period was accepted; it never meant anything but the shortest.
	if g := p.Spec.TerminationGracePeriodSeconds; g != nil && *g < 0 {
		*g = 1
	}
	defaultStatus(&p.Status)
}

// requestsFromLimits requests as much as the limit of what has a limit only.
func requestsFromLimits(r *corev1.ResourceRequirements) {
	if r.Limits != nil && r.Requests == nil {
		r.Requests = corev1.ResourceList{}
	}
	for name, limit := range r.Limits {
		if _, ok := r.Requests[name]; !ok {
			r.Requests[name] = limit.DeepCopy()
		}
	}
}

// defaultPodHugePages limits the huge pages of a Pod with resources of its own to what its containers' limits add up to.
// Huge pages cannot be overcommitted, so a Pod-level limit is needed as soon as there is any.
func defaultPodHugePages(p *corev1.Pod, r *corev1.ResourceRequirements) {
	if len(r.Limits) == 0 && len(r.Requests) == 0 {
		return
	}
	for name, limit := range resourcehelper.AggregateContainerLimits(p, resourcehelper.PodResourcesOptions{}) {
		if !v.IsHugePages(name) {
			continue
		}
		_, requested := r.Requests[name]
		_, limited := r.Limits[name]
		if requested || limited {
			continue
		}
		if r.Limits == nil {
			r.Limits = corev1.ResourceList{}
		}
		r.Limits[name] = limit.DeepCopy()
	}
}

// defaultPodRequests fills in the requests of a Pod with limits of its own: of what may be overcommitted, the sum over
// the containers; of what no container requests, the limit.
func defaultPodRequests(p *corev1.Pod, r *corev1.ResourceRequirements) {
	if len(r.Limits) == 0 {
		return
	}
	requests := corev1.ResourceList{}
	for name, sum := range resourcehelper.AggregateContainerRequests(p, resourcehelper.PodResourcesOptions{}) {
		if resourcehelper.IsSupportedPodLevelResource(name) && !v.IsHugePages(name) {
			requests[name] = sum.DeepCopy()
		}
	}
	for name, limit := range r.Limits {
		if _, ok := requests[name]; !ok && resourcehelper.IsSupportedPodLevelResource(name) {
			requests[name] = limit.DeepCopy()
		}
	}
	for name, q := range r.Requests {
		requests[name] = q
	}
	if len(requests) > 0 {
		r.Requests = requests
	}
}

// defaultStatus makes podIP and the first of podIPs agree. Where a writer that knows only one address has set podIP, that
// is the one that holds.
func defaultStatus(s *corev1.PodStatus) {
	switch {
	case s.PodIP != "" && (len(s.PodIPs) == 0 || s.PodIPs[0].IP != s.PodIP):
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	case len(s.PodIPs) > 0:
		s.PodIP = s.PodIPs[0].IP
	}
	defaultQuantities(s.AllocatedResources)
	for _, statuses := range [][]corev1.ContainerStatus{s.InitContainerStatuses, s.ContainerStatuses, s.EphemeralContainerStatuses} {
		for i := range statuses {
			defaultQuantities(statuses[i].AllocatedResources)
			if r := statuses[i].Resources; r != nil {
				defaultQuantities(r.Limits)
				defaultQuantities(r.Requests)
			}
		}
	}
	if s.Resources != nil {
		defaultQuantities(s.Resources.Limits)
		defaultQuantities(s.Resources.Requests)
	}
}
