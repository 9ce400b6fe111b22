package endpointslicemirroring

import (
	"cmp"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilnet "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// maxEndpoints is the most addresses of a subset that are mirrored, in one slice for each family; upstream's default.
const maxEndpoints = 1000

// mirror returns the slices that say what the Endpoints say: one for each set of ports and address family. Their names
// follow from that, so that a step that is repeated makes nothing twice.
func mirror(e *corev1.Endpoints) []*discoveryv1.EndpointSlice {
	byName := map[string]*discoveryv1.EndpointSlice{}
	for i := range e.Subsets {
		s := &e.Subsets[i]
		ports := mirrorPorts(s.Ports)
		add := func(a *corev1.EndpointAddress, ready bool) {
			family := discoveryv1.AddressTypeIPv4
			if utilnet.IsIPv6String(a.IP) {
				family = discoveryv1.AddressTypeIPv6
			}
			name := nameFor(e.Name, family, s.Ports)
			slice := byName[name]
			if slice == nil {
				slice = &discoveryv1.EndpointSlice{ObjectMeta: metaFor(e, name), AddressType: family, Ports: ports}
				byName[name] = slice
			}
			if len(slice.Endpoints) < maxEndpoints {
				slice.Endpoints = append(slice.Endpoints, endpoint(a, ready))
			}
		}
		for j := range s.Addresses {
			add(&s.Addresses[j], true)
		}
		for j := range s.NotReadyAddresses {
			add(&s.NotReadyAddresses[j], false)
		}
	}
	out := make([]*discoveryv1.EndpointSlice, 0, len(byName))
	for _, name := range slices.Sorted(maps.Keys(byName)) {
		out = append(out, byName[name])
	}
	return out
}

func nameFor(service string, family discoveryv1.AddressType, ports []corev1.EndpointPort) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s;", family)
	for _, p := range slices.SortedFunc(slices.Values(ports), func(a, b corev1.EndpointPort) int {
		return cmp.Or(strings.Compare(a.Name, b.Name), cmp.Compare(a.Port, b.Port), strings.Compare(string(a.Protocol), string(b.Protocol)))
	}) {
		fmt.Fprintf(&b, "%s/%d/%s/%s;", p.Name, p.Port, p.Protocol, ptr.Deref(p.AppProtocol, ""))
	}
	sum := sha256.Sum256([]byte(b.String()))
	return service + "-" + hex.EncodeToString(sum[:])[:10]
}

func metaFor(e *corev1.Endpoints, name string) metav1.ObjectMeta {
	labels, annotations := maps.Clone(e.Labels), maps.Clone(e.Annotations)
	if labels == nil {
		labels = map[string]string{}
	}
	delete(labels, corev1.IsHeadlessService)
	labels[discoveryv1.LabelServiceName] = e.Name
	labels[discoveryv1.LabelManagedBy] = manager
	delete(annotations, corev1.EndpointsLastChangeTriggerTime)
	delete(annotations, corev1.LastAppliedConfigAnnotation)
	owner := metav1.NewControllerRef(e, corev1.SchemeGroupVersion.WithKind("Endpoints"))
	return metav1.ObjectMeta{
		Name: name, Namespace: e.Namespace, Labels: labels, Annotations: annotations, OwnerReferences: []metav1.OwnerReference{*owner}}
}

func mirrorPorts(ports []corev1.EndpointPort) []discoveryv1.EndpointPort {
	out := make([]discoveryv1.EndpointPort, 0, len(ports))
	for i := range ports {
		p := ports[i]
		out = append(out, discoveryv1.EndpointPort{Name: &p.Name, Port: &p.Port, Protocol: &p.Protocol, AppProtocol: p.AppProtocol})
	}
	return out
}

func endpoint(a *corev1.EndpointAddress, ready bool) discoveryv1.Endpoint {
	e := discoveryv1.Endpoint{Addresses: []string{a.IP}, Conditions: discoveryv1.EndpointConditions{Ready: ptr.To(ready)},
		TargetRef: a.TargetRef.DeepCopy(), NodeName: a.NodeName}
	if a.Hostname != "" {
		e.Hostname = ptr.To(a.Hostname)
	}
	return e
}

type verb string

const (
	create verb = "create"
	update verb = "update"
	remove verb = "delete"
)

// step is one write.
type step struct {
	verb  verb
	slice *discoveryv1.EndpointSlice
}

// plan returns the writes that make of what exists what is wanted. New slices come first, so that no endpoint is missing
// in between.
func plan(want, existing []*discoveryv1.EndpointSlice) []step {
	old := map[string]*discoveryv1.EndpointSlice{}
	for _, s := range existing {
		old[s.Name] = s
	}
	var steps []step
	for _, s := range want {
		was, ok := old[s.Name]
		delete(old, s.Name)
		switch {
		case !ok:
			steps = append(steps, step{create, s})
		case !same(was, s):
			next := was.DeepCopy()
			next.Labels, next.Annotations, next.OwnerReferences = s.Labels, s.Annotations, s.OwnerReferences
			next.Ports, next.Endpoints = s.Ports, s.Endpoints
			steps = append(steps, step{update, next})
		}
	}
	slices.SortStableFunc(steps, func(a, b step) int { return strings.Compare(string(a.verb), string(b.verb)) })
	for _, name := range slices.Sorted(maps.Keys(old)) {
		steps = append(steps, step{remove, old[name]})
	}
	return steps
}

func same(a, b *discoveryv1.EndpointSlice) bool {
	return maps.Equal(a.Labels, b.Labels) && maps.Equal(a.Annotations, b.Annotations) &&
		equality.Semantic.DeepEqual(a.OwnerReferences, b.OwnerReferences) &&
		equality.Semantic.DeepEqual(a.Ports, b.Ports) && equality.Semantic.DeepEqual(a.Endpoints, b.Endpoints)
}
