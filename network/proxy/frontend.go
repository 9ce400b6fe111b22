package proxy

import (
	"cmp"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/refusedports"
)

// Frontend is where clients of a Service send to. An unspecified address (0.0.0.0, ::) stands for all of this machine's:
// a node port.
type Frontend struct {
	Addr     netip.Addr
	Protocol uint8
	Port     uint16
}

// target says what becomes of a new connection to a frontend.
type target struct {
	// inside are the endpoints for clients on this node, and for all others too unless split.
	inside []netip.AddrPort
	// split gives clients elsewhere the endpoints in outside only (externalTrafficPolicy Local).
	split   bool
	outside []netip.AddrPort
	// masquerade hides clients elsewhere behind this node, so that answers come back by it.
	masquerade bool
	// affinity is for how long a client keeps its endpoint; zero for not at all.
	affinity time.Duration
	// restricted admits clients from sources only, those on this node too.
	restricted bool
	sources    []netip.Prefix
	// drop stays silent, where there is no endpoint for this node but elsewhere there are; otherwise packets are refused.
	drop bool
}

// equal says whether the two give the same rules.
func (t *target) equal(o *target) bool {
	return slices.Equal(t.inside, o.inside) && slices.Equal(t.outside, o.outside) && slices.Equal(t.sources, o.sources) &&
		t.split == o.split && t.masquerade == o.masquerade && t.affinity == o.affinity && t.restricted == o.restricted && t.drop == o.drop
}

// where says where the proxy runs.
type where struct {
	node string
	zone string
	// own are cluster IPs that this machine answers itself.
	own map[netip.Addr]bool
	// pods are the addresses of all nodes' Pods.
	pods []netip.Prefix
	// addresses are the node's, on which reserved ports are not given to load balancers.
	addresses map[netip.Addr]bool
	reserved  map[uint16]bool
}

const proxyNameLabel = "service.kubernetes.io/service-proxy-name"

var protocolNumbers = map[corev1.Protocol]uint8{corev1.ProtocolTCP: 6, corev1.ProtocolUDP: 17, corev1.ProtocolSCTP: 132}

// frontends returns all frontends of a Service with their targets. It is a pure function.
func frontends(svc *corev1.Service, endpointSlices []*discoveryv1.EndpointSlice, at *where) map[Frontend]*target {
	out := map[Frontend]*target{}
	if _, other := svc.Labels[proxyNameLabel]; other || svc.Spec.Type == corev1.ServiceTypeExternalName ||
		svc.Spec.ClusterIP == corev1.ClusterIPNone || svc.Spec.ClusterIP == "" {
		return out
	}
	for i := range svc.Spec.Ports {
		p := &svc.Spec.Ports[i]
		protocol, ok := protocolNumbers[p.Protocol]
		if !ok {
			continue
		}
		for _, is6 := range []bool{false, true} {
			b := builder{svc: svc, at: at, out: out, protocol: protocol, is6: is6,
				endpoints: endpointsOf(p, endpointSlices, is6, at.node)}
			b.addPort(p)
		}
	}
	return out
}

// builder adds the frontends of one port in one family.
type builder struct {
	svc       *corev1.Service
	at        *where
	out       map[Frontend]*target
	protocol  uint8
	is6       bool
	endpoints []endpoint
}

func (b *builder) addPort(p *corev1.ServicePort) {
	cluster := usable(b.endpoints, b.at)
	local := usable(onNode(b.endpoints), b.at)
	affinity := affinityOf(b.svc)
	port := uint16(p.Port)

	internal := target{inside: cluster, affinity: affinity}
	if ptr.Deref(b.svc.Spec.InternalTrafficPolicy, corev1.ServiceInternalTrafficPolicyCluster) == corev1.ServiceInternalTrafficPolicyLocal {
		internal.inside, internal.drop = local, len(cluster) > 0
	}
	b.add(b.svc.Spec.ClusterIPs, port, &internal, true)
	if len(b.svc.Spec.ClusterIPs) == 0 {
		b.add([]string{b.svc.Spec.ClusterIP}, port, &internal, true)
	}

	external := target{inside: cluster, affinity: affinity, masquerade: true}
	if b.svc.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal {
		external.masquerade, external.split, external.outside = false, true, local
	}
	b.add(b.svc.Spec.ExternalIPs, port, &external, false)
	if p.NodePort > 0 && b.hasFamily() {
		b.out[Frontend{anyAddr(b.is6), b.protocol, uint16(p.NodePort)}] = &external
		b.addLoopback(uint16(p.NodePort), external)
	}
	b.addBalancer(port, external)
}

// addLoopback adds a node port at 127.0.0.1, where it leads elsewhere than at the node's addresses. What is sent from there may leave
// the host by the interfaces of Pods and of the overlay only, and answers come back by these: with the kernel's setting for it
// (route_localnet), the interface of the node would have neighbours reach what listens on 127.0.0.1. So endpoints on the wire, such
// as other nodes' hostNetwork Pods, are left out; the port is refused where there are no others. Upstream's proxy, on nftables, does
// not serve node ports there at all.
func (b *builder) addLoopback(port uint16, external target) {
	if b.is6 {
		return // closed: nothing leaves the host from ::1
	}
	near := slices.DeleteFunc(slices.Clone(external.inside), func(end netip.AddrPort) bool { return !b.at.reachedFromLoopback(end.Addr()) })
	if len(near) == len(external.inside) {
		return
	}
	t := target{inside: near, affinity: external.affinity, masquerade: true}
	b.out[Frontend{netip.AddrFrom4([4]byte{127, 0, 0, 1}), b.protocol, port}] = &t
}

func (w *where) reachedFromLoopback(a netip.Addr) bool {
	return w.addresses[a] || slices.ContainsFunc(w.pods, func(p netip.Prefix) bool { return p.Contains(a) })
}

// balanced are the frontends at this node's addresses that a Service of a load balancer is to have, whether or not its status names
// them yet. It is a pure function.
func balanced(svc *corev1.Service, at *where) []Frontend {
	if _, other := svc.Labels[proxyNameLabel]; other || !refusedports.Ours(svc) {
		return nil
	}
	var out []Frontend
	for addr := range at.addresses {
		if b := (builder{svc: svc, is6: addr.Is6()}); !b.hasFamily() {
			continue
		}
		for _, p := range svc.Spec.Ports {
			if protocol, ok := protocolNumbers[p.Protocol]; ok {
				out = append(out, Frontend{addr, protocol, uint16(p.Port)})
			}
		}
	}
	return out
}

// addBalancer adds the addresses that the load balancer has given the Service.
func (b *builder) addBalancer(port uint16, external target) {
	if b.svc.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return
	}
	if ranges := b.svc.Spec.LoadBalancerSourceRanges; len(ranges) > 0 {
		external.restricted, external.sources = true, b.sources(ranges)
	}
	var ips []string
	for _, in := range b.svc.Status.LoadBalancer.Ingress {
		// In mode Proxy the balancer sends to node ports, and clients here go to it like all others.
		if ptr.Deref(in.IPMode, corev1.LoadBalancerIPModeVIP) == corev1.LoadBalancerIPModeVIP {
			ips = append(ips, in.IP)
		}
	}
	b.add(ips, port, &external, false)
}

// sources are the ranges of the family. One that has an address of this machine admits what comes from it, whichever of its addresses
// that has: to a load balancer's at home the kernel sends from that very one.
func (b *builder) sources(ranges []string) []netip.Prefix {
	var out []netip.Prefix
	fromHere := false
	for _, r := range ranges {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(r)) // validation allows spaces around it
		if err != nil || prefix.Addr().Is6() != b.is6 {
			continue
		}
		out = append(out, prefix.Masked())
		for own := range b.at.addresses {
			fromHere = fromHere || prefix.Contains(own)
		}
	}
	if fromHere {
		for _, own := range slices.SortedFunc(maps.Keys(b.at.addresses), netip.Addr.Compare) {
			if own.Is6() == b.is6 {
				out = append(out, netip.PrefixFrom(own, own.BitLen()))
			}
		}
	}
	return out
}

// add adds a frontend for each address of the family.
func (b *builder) add(ips []string, port uint16, t *target, internal bool) {
	for _, ip := range ips {
		addr, err := netip.ParseAddr(ip)
		if err != nil {
			continue // a host name, or not allocated yet
		}
		addr = addr.Unmap()
		if addr.Is6() != b.is6 || internal && b.at.own[addr] || b.at.addresses[addr] && b.at.reserved[port] {
			continue
		}
		f := Frontend{addr, b.protocol, port}
		if _, ok := b.out[f]; !ok {
			b.out[f] = t
		}
	}
}

// hasFamily says whether the Service is one of the builder's family.
func (b *builder) hasFamily() bool {
	family := corev1.IPv4Protocol
	if b.is6 {
		family = corev1.IPv6Protocol
	}
	return slices.Contains(b.svc.Spec.IPFamilies, family)
}

func anyAddr(is6 bool) netip.Addr {
	if is6 {
		return netip.IPv6Unspecified()
	}
	return netip.IPv4Unspecified()
}

func affinityOf(svc *corev1.Service) time.Duration {
	if svc.Spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return 0
	}
	seconds := corev1.DefaultClientIPServiceAffinitySeconds
	if c := svc.Spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
		seconds = *c.ClientIP.TimeoutSeconds
	}
	return time.Duration(seconds) * time.Second
}

// endpoint is one address and port that serves a Service's port.
type endpoint struct {
	to                          netip.AddrPort
	local                       bool
	ready, serving, terminating bool
	hints                       *discoveryv1.EndpointHints
}

// endpointsOf are the endpoints of a Service's port in one family.
func endpointsOf(p *corev1.ServicePort, endpointSlices []*discoveryv1.EndpointSlice, is6 bool, node string) []endpoint {
	family := discoveryv1.AddressTypeIPv4
	if is6 {
		family = discoveryv1.AddressTypeIPv6
	}
	var out []endpoint
	for _, s := range endpointSlices {
		if s.AddressType != family {
			continue
		}
		for i := range s.Ports {
			sp := &s.Ports[i]
			if sp.Port == nil || ptr.Deref(sp.Name, "") != p.Name || ptr.Deref(sp.Protocol, corev1.ProtocolTCP) != p.Protocol {
				continue
			}
			for j := range s.Endpoints {
				e := &s.Endpoints[j]
				if len(e.Addresses) == 0 {
					continue
				}
				// Only the first address counts (KEP-752).
				addr, err := netip.ParseAddr(e.Addresses[0])
				if err != nil || addr.Is6() != is6 {
					continue
				}
				ready := ptr.Deref(e.Conditions.Ready, true)
				out = append(out, endpoint{
					to: netip.AddrPortFrom(addr, uint16(*sp.Port)), local: e.NodeName != nil && *e.NodeName == node,
					ready: ready, serving: ptr.Deref(e.Conditions.Serving, ready), terminating: ptr.Deref(e.Conditions.Terminating, false),
					hints: e.Hints,
				})
			}
		}
	}
	return out
}

func onNode(all []endpoint) []endpoint {
	var out []endpoint
	for _, e := range all {
		if e.local {
			out = append(out, e)
		}
	}
	return out
}

// usable are the addresses of the endpoints that new connections go to: the ready ones, near ones if hints say so (KEP-2433),
// or where none is ready those that end but still serve (KEP-1669). They are sorted, each once.
func usable(all []endpoint, at *where) []netip.AddrPort {
	var chosen []endpoint
	for _, e := range all {
		if e.ready {
			chosen = append(chosen, e)
		}
	}
	if len(chosen) == 0 {
		for _, e := range all {
			if e.serving && e.terminating {
				chosen = append(chosen, e)
			}
		}
	} else {
		chosen = near(chosen, at)
	}
	out := make([]netip.AddrPort, len(chosen))
	for i := range chosen {
		out[i] = chosen[i].to
	}
	slices.SortFunc(out, func(a, b netip.AddrPort) int {
		return cmp.Or(a.Addr().Compare(b.Addr()), cmp.Compare(a.Port(), b.Port()))
	})
	return slices.Compact(out)
}

// near keeps the endpoints that are meant for this node, or for its zone; all, if that leaves none or an endpoint has no
// such hint.
func near(all []endpoint, at *where) []endpoint {
	forNode := func(e endpoint) (meant, hinted bool) {
		if e.hints == nil {
			return false, false
		}
		return slices.ContainsFunc(e.hints.ForNodes, func(n discoveryv1.ForNode) bool { return n.Name == at.node }), len(e.hints.ForNodes) > 0
	}
	forZone := func(e endpoint) (meant, hinted bool) {
		if e.hints == nil || at.zone == "" {
			return false, false
		}
		return slices.ContainsFunc(e.hints.ForZones, func(z discoveryv1.ForZone) bool { return z.Name == at.zone }), len(e.hints.ForZones) > 0
	}
	for _, choose := range []func(endpoint) (bool, bool){forNode, forZone} {
		var chosen []endpoint
		hintedAll := true
		for _, e := range all {
			meant, hinted := choose(e)
			hintedAll = hintedAll && hinted
			if meant {
				chosen = append(chosen, e)
			}
		}
		if hintedAll && len(chosen) > 0 {
			return chosen
		}
	}
	return all
}
