package endpoints

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/endpointslice"
	"k8s.io/endpointslice/util"
	utilnet "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// subsets groups the addresses of the Pods by the ports that they serve, in a fixed order.
func subsets(svc *corev1.Service, pods []*corev1.Pod) []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		if !util.ShouldPodBeInEndpoints(pod, svc.Spec.PublishNotReadyAddresses) {
			continue
		}
		address, ok := addressOf(svc, pod)
		if !ok {
			continue
		}
		ports, key := portsOf(svc, pod)
		if len(ports) == 0 && len(svc.Spec.Ports) > 0 {
			continue // the Pod serves none of them
		}
		g := groups[key]
		if g == nil {
			g = &corev1.EndpointSubset{Ports: ports}
			groups[key] = g
		}
		if svc.Spec.PublishNotReadyAddresses || util.IsPodReady(pod) {
			g.Addresses = append(g.Addresses, address)
		} else {
			g.NotReadyAddresses = append(g.NotReadyAddresses, address)
		}
	}
	var all []corev1.EndpointSubset
	for _, key := range sortedKeys(groups) {
		g := groups[key]
		slices.SortFunc(g.Addresses, compareAddresses)
		slices.SortFunc(g.NotReadyAddresses, compareAddresses)
		all = append(all, *g)
	}
	return all
}

func sortedKeys(groups map[string]*corev1.EndpointSubset) []string {
	keys := make([]string, 0, len(groups))
	for k := range groups {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}

func compareAddresses(a, b corev1.EndpointAddress) int {
	return cmp.Or(strings.Compare(a.IP, b.IP), strings.Compare(string(a.TargetRef.UID), string(b.TargetRef.UID)))
}

// addressOf is the Pod's address in the Service's first family; false if it has none.
func addressOf(svc *corev1.Service, pod *corev1.Pod) (corev1.EndpointAddress, bool) {
	want6 := len(svc.Spec.IPFamilies) > 0 && svc.Spec.IPFamilies[0] == corev1.IPv6Protocol
	ips := pod.Status.PodIPs
	if len(ips) == 0 && pod.Status.PodIP != "" {
		ips = []corev1.PodIP{{IP: pod.Status.PodIP}}
	}
	for _, ip := range ips {
		if utilnet.IsIPv6String(ip.IP) != want6 {
			continue
		}
		a := corev1.EndpointAddress{IP: ip.IP, TargetRef: &corev1.ObjectReference{
			Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID}}
		if pod.Spec.NodeName != "" {
			a.NodeName = ptr.To(pod.Spec.NodeName)
		}
		if util.ShouldSetHostname(pod, svc) {
			a.Hostname = pod.Spec.Hostname
		}
		return a, true
	}
	return corev1.EndpointAddress{}, false
}

// portsOf are the Service's ports on the Pod, those by name that the Pod lacks left out, and a text that tells such sets
// apart.
func portsOf(svc *corev1.Service, pod *corev1.Pod) ([]corev1.EndpointPort, string) {
	var ports []corev1.EndpointPort
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		number, err := endpointslice.FindPort(pod, p)
		if err != nil {
			continue // other Pods may have it
		}
		ports = append(ports, corev1.EndpointPort{Name: p.Name, Port: int32(number), Protocol: p.Protocol, AppProtocol: p.AppProtocol})
	}
	slices.SortFunc(ports, func(a, b corev1.EndpointPort) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
	})
	var key strings.Builder
	for _, p := range ports {
		fmt.Fprintf(&key, "%s/%d/%s/%s;", p.Name, p.Port, p.Protocol, ptr.Deref(p.AppProtocol, ""))
	}
	return ports, key.String()
}

// truncate shortens the subsets to the most addresses that one object holds, those that are not ready first, and says
// whether it had to.
func truncate(all []corev1.EndpointSubset) bool {
	left, over := maxAddresses, false
	take := func(list *[]corev1.EndpointAddress) {
		if len(*list) > left {
			*list, over = (*list)[:left], true
		}
		left -= len(*list)
	}
	for i := range all {
		take(&all[i].Addresses)
	}
	for i := range all {
		take(&all[i].NotReadyAddresses)
	}
	return over
}

// compact drops subsets without addresses, which are not valid.
func compact(all []corev1.EndpointSubset) []corev1.EndpointSubset {
	return slices.DeleteFunc(all, func(s corev1.EndpointSubset) bool { return len(s.Addresses)+len(s.NotReadyAddresses) == 0 })
}
