package dynamicresources

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/scheduler/framework"
)

// lacking are the extended resources of the Pod that the node does not have itself, so that devices of their classes are needed. A
// resource that is to be had in neither way is a reason against the node.
func (s *search) lacking(n *framework.Node) ([]corev1.ResourceName, framework.Reason) {
	var out []corev1.ResourceName
	for name, amount := range s.pod.Requests.Extended {
		if amount == 0 || !framework.MayBeDevice(name) {
			continue
		}
		has, known := n.Allocatable.Extended[name]
		switch {
		case has == 0 && s.devices.ClassOf(name) != nil:
			out = append(out, name)
		case !known:
			return nil, wrong(cannotFit)
		}
	}
	slices.Sort(out)
	return out, framework.Reason{}
}

// extendedClaim is the claim that is to be made for extended resources of the Pod. Until it is made it has no name, and a UID that
// follows from the Pod's.
func (s *search) extendedClaim(resources []corev1.ResourceName) (*resourcev1.ResourceClaim, []corev1.ContainerExtendedResourceRequest) {
	yes := true
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{
		Namespace: s.pod.Namespace, GenerateName: s.pod.Name + "-extended-resources-", UID: types.UID("extended-resources-of-" + s.pod.UID),
		Annotations:     map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
		OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: s.pod.Name, UID: s.pod.UID, Controller: &yes}},
	}}
	var mappings []corev1.ContainerExtendedResourceRequest
	for _, resource := range resources {
		requests, mapped := requestsFor(s.pod.Pod, resource, s.devices.ClassOf(resource).Name)
		claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, requests...)
		mappings = append(mappings, mapped...)
	}
	slices.SortFunc(claim.Spec.Devices.Requests, func(a, b resourcev1.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return claim, mappings
}

// requestsFor returns the requests for one resource, and which of them each container has. Containers that run beside each other, which
// sidecars do too, have their own. An init container, which is over before the next begins, has those of the containers that are
// still to come; of what init containers need beyond, there is one request, for the one that needs most.
func requestsFor(p *corev1.Pod, resource corev1.ResourceName, class string) ([]resourcev1.DeviceRequest, []corev1.ContainerExtendedResourceRequest) {
	all := slices.Concat(p.Spec.InitContainers, p.Spec.Containers)
	early := func(i int) bool {
		return i < len(p.Spec.InitContainers) && (all[i].RestartPolicy == nil || *all[i].RestartPolicy != corev1.ContainerRestartPolicyAlways)
	}
	request := func(i int, count int64) resourcev1.DeviceRequest {
		return resourcev1.DeviceRequest{Name: requestName(i, &all[i], resource), Exactly: &resourcev1.ExactDeviceRequest{
			DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count}}
	}
	var requests []resourcev1.DeviceRequest
	var mappings []corev1.ContainerExtendedResourceRequest
	mapped := func(i int, name string) {
		mappings = append(mappings, corev1.ContainerExtendedResourceRequest{ContainerName: all[i].Name, ResourceName: string(resource), RequestName: name})
	}
	owned := map[int]resourcev1.DeviceRequest{} // by container
	for i := range all {
		if count := amountOf(&all[i], resource); count > 0 && !early(i) {
			owned[i] = request(i, count)
			requests = append(requests, owned[i])
			mapped(i, owned[i].Name)
		}
	}
	// beyond has what each init container needs of the shared request.
	beyond, most := map[int]int64{}, -1
	for i := range all {
		if !early(i) {
			continue
		}
		left := amountOf(&all[i], resource)
		for j := i; j < len(all) && left > 0; j++ {
			if r, ok := owned[j]; ok {
				mapped(i, r.Name)
				left -= r.Exactly.Count
			}
		}
		if left <= 0 {
			continue
		}
		beyond[i] = left
		if most < 0 || left > beyond[most] {
			most = i
		}
	}
	if most < 0 {
		return requests, mappings
	}
	shared := request(most, beyond[most])
	for _, i := range slices.Sorted(maps.Keys(beyond)) {
		mapped(i, shared.Name)
	}
	return append(requests, shared), mappings
}

// amountOf is how many of the resource the container requests.
func amountOf(c *corev1.Container, resource corev1.ResourceName) int64 {
	q := c.Resources.Requests[resource]
	count, _ := q.AsInt64() // validation lets no others pass
	return count
}

// requestName is made of the place of the container among all, init containers first, and that of the resource among its requests, by
// name.
func requestName(container int, c *corev1.Container, resource corev1.ResourceName) string {
	names := slices.Sorted(maps.Keys(c.Resources.Requests))
	return fmt.Sprintf("container-%d-request-%d", container, slices.Index(names, resource))
}
