package loadbalancer

import (
	"slices"
	"strings"
	"sync"

	corev1 "k8s.io/api/core/v1"
	utilnet "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"github.com/peapod/peapod/internal/refusedports"
)

// pool is at which addresses the nodes are reached, and which of them refuse ports. A node's change costs the same however many there
// are, but for making room in a sorted list: 5 us at 5,000. Its methods are safe for concurrent use.
type pool struct {
	mu    sync.Mutex
	nodes map[string]member
	// addresses are those of all nodes, sorted as texts, each once.
	addresses []address
	// refusing are the nodes that refuse any port.
	refusing map[string]*corev1.Node
}

// member is what the pool has of a node.
type member struct {
	addresses []string
	refused   string
}

// address is an address and how many nodes say to have it.
type address struct {
	ip     string
	family corev1.IPFamily
	nodes  int
}

// set takes a node as it is now, and says whether anything in the pool is another.
func (p *pool) set(n *corev1.Node) bool {
	is := member{addresses: addresses(n), refused: n.Annotations[refusedports.Annotation]}
	p.mu.Lock()
	defer p.mu.Unlock()
	was := p.nodes[n.Name]
	if slices.Equal(was.addresses, is.addresses) && was.refused == is.refused {
		return false
	}
	p.drop(n.Name)
	if p.nodes == nil {
		p.nodes, p.refusing = map[string]member{}, map[string]*corev1.Node{}
	}
	p.nodes[n.Name] = is
	if is.refused != "" {
		p.refusing[n.Name] = n
	}
	for _, ip := range is.addresses {
		at, found := p.find(ip)
		if !found {
			family := corev1.IPv4Protocol
			if utilnet.IsIPv6String(ip) {
				family = corev1.IPv6Protocol
			}
			p.addresses = slices.Insert(p.addresses, at, address{ip: ip, family: family})
		}
		p.addresses[at].nodes++
	}
	return true
}

// remove forgets a node, and says whether there was anything of it in the pool.
func (p *pool) remove(name string) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.drop(name)
}

// drop is remove with p.mu held.
func (p *pool) drop(name string) bool {
	was, known := p.nodes[name]
	for _, ip := range was.addresses {
		at, _ := p.find(ip)
		if p.addresses[at].nodes--; p.addresses[at].nodes == 0 {
			p.addresses = slices.Delete(p.addresses, at, at+1)
		}
	}
	delete(p.nodes, name)
	delete(p.refusing, name)
	return known
}

func (p *pool) find(ip string) (at int, found bool) {
	return slices.BinarySearchFunc(p.addresses, ip, func(a address, ip string) int { return strings.Compare(a.ip, ip) })
}

// maxAddresses bounds the addresses of one family in a status.
const maxAddresses = 64

// ingress is the status of a Service that has its ports: the addresses of its families, sorted, of the nodes that do not refuse
// one of the ports, and of those alone that are serving unless that is nil; the first maxAddresses of each family. Nodes that are not
// among those are none of its changes.
func (p *pool) ingress(svc *corev1.Service, serving map[string]bool) corev1.LoadBalancerStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	without := map[string]int{} // by how many of the nodes that say to have it an address is refused
	for name, n := range p.refusing {
		if !refusedports.Refuses(n, svc) {
			continue
		}
		for _, ip := range p.nodes[name].addresses {
			without[ip]++
		}
	}
	var at map[string]bool // the addresses of those that serve; nil: all
	if serving != nil {
		at = map[string]bool{}
		for name := range serving {
			for _, ip := range p.nodes[name].addresses {
				at[ip] = true
			}
		}
	}
	var s corev1.LoadBalancerStatus
	room := map[corev1.IPFamily]int{}
	for _, family := range svc.Spec.IPFamilies {
		room[family] = maxAddresses
	}
	for _, a := range p.addresses {
		if len(room) == 0 {
			break
		}
		if room[a.family] == 0 || a.nodes <= without[a.ip] || at != nil && !at[a.ip] {
			continue
		}
		s.Ingress = append(s.Ingress, corev1.LoadBalancerIngress{IP: a.ip, IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
		if room[a.family]--; room[a.family] == 0 {
			delete(room, a.family)
		}
	}
	return s
}

// taintToBeDeleted is what the cluster autoscaler puts on a node that it is about to remove.
const taintToBeDeleted = "ToBeDeletedByClusterAutoscaler"

// addresses are those at which a node is reached from outside: its external ones, or the internal where there are none. A node that
// goes has none. One that is not ready keeps them, as upstream, so that connections outlive what passes.
func addresses(n *corev1.Node) []string {
	_, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]
	goes := n.DeletionTimestamp != nil || slices.ContainsFunc(n.Spec.Taints, func(t corev1.Taint) bool { return t.Key == taintToBeDeleted })
	if excluded || goes {
		return nil
	}
	for _, kind := range []corev1.NodeAddressType{corev1.NodeExternalIP, corev1.NodeInternalIP} {
		var out []string
		for _, a := range n.Status.Addresses {
			if a.Type == kind {
				out = append(out, a.Address)
			}
		}
		if len(out) > 0 {
			return out
		}
	}
	return nil
}
