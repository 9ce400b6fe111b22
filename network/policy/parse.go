package policy

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"
)

// direction is that of connections, as their Pod sees it.
type direction int

const (
	ingress direction = iota
	egress
	directions
)

// String is the name of the field that has its rules, and part of the names of sets and chains.
func (d direction) String() string {
	if d == egress {
		return "egress"
	}
	return "ingress"
}

// policy is a NetworkPolicy as rules are made from it.
type policy struct {
	pods labels.Selector
	// isolates are the directions in which only what a rule allows may pass; rules are by direction.
	isolates [directions]bool
	rules    [directions][]*rule
}

// rule allows connections from or to peers, at ports. Rules of the same content are one, whoever asks for them.
type rule struct {
	// key names the content.
	key     string
	towards direction
	// anyone stands for all peers. Else a peer is in one of groups or blocks.
	anyone bool
	groups []group
	blocks []block
	// everything stands for all ports and protocols. Else it is one of ports.
	everything bool
	ports      []port
}

// group are the Pods that a peer selects.
type group struct {
	// key names the selectors.
	key string
	// namespace is where they are, if namespaces is nil.
	namespace  string
	namespaces labels.Selector
	pods       labels.Selector
}

// block are addresses but those in except, all of one family.
type block struct {
	net    netip.Prefix
	except []netip.Prefix
}

// port are ports of a protocol from first to last, or, with a name, those that the destination calls so.
type port struct {
	protocol    uint8
	first, last uint16
	name        string
}

// parse reads a policy. A rule that cannot be read, which the API accepts from nobody, allows nothing; the error says what it is. Of a
// policy whose own selector cannot be read there is nothing, for nobody can say whom it selects. It is a pure function.
func parse(obj *networkingv1.NetworkPolicy) (*policy, error) {
	selector, err := metav1.LabelSelectorAsSelector(&obj.Spec.PodSelector)
	if err != nil {
		return nil, fmt.Errorf("read spec.podSelector: %w", err)
	}
	p := &policy{pods: selector}
	for _, t := range obj.Spec.PolicyTypes {
		switch t {
		case networkingv1.PolicyTypeIngress:
			p.isolates[ingress] = true
		case networkingv1.PolicyTypeEgress:
			p.isolates[egress] = true
		}
	}
	var errs []error
	add := func(towards direction, i int, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) {
		if !p.isolates[towards] {
			return
		}
		r, err := parseRule(towards, obj.Namespace, peers, ports)
		if err != nil {
			errs = append(errs, fmt.Errorf("read rule %d of spec.%s: %w", i, towards, err))
			return
		}
		p.rules[towards] = append(p.rules[towards], r)
	}
	for i, r := range obj.Spec.Ingress {
		add(ingress, i, r.From, r.Ports)
	}
	for i, r := range obj.Spec.Egress {
		add(egress, i, r.To, r.Ports)
	}
	return p, errors.Join(errs...)
}

func parseRule(towards direction, namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) (*rule, error) {
	key, err := keyOf(towards, namespace, peers, ports)
	if err != nil {
		return nil, err
	}
	r := &rule{key: key, towards: towards, anyone: len(peers) == 0, everything: len(ports) == 0}
	for i := range peers {
		if err := r.addPeer(namespace, &peers[i]); err != nil {
			return nil, fmt.Errorf("read peer %d: %w", i, err)
		}
	}
	for i := range ports {
		r.addPort(&ports[i])
	}
	return r, nil
}

func (r *rule) addPeer(namespace string, peer *networkingv1.NetworkPolicyPeer) error {
	if peer.IPBlock != nil {
		b, err := parseBlock(peer.IPBlock)
		if err != nil {
			return err
		}
		r.blocks = append(r.blocks, b)
		return nil
	}
	g := group{pods: labels.Everything()}
	var err error
	if peer.PodSelector != nil {
		if g.pods, err = metav1.LabelSelectorAsSelector(peer.PodSelector); err != nil {
			return fmt.Errorf("read podSelector: %w", err)
		}
	}
	if peer.NamespaceSelector == nil {
		g.namespace = namespace
	} else if g.namespaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
		return fmt.Errorf("read namespaceSelector: %w", err)
	}
	if g.key, err = keyOf(g.namespace, peer); err != nil {
		return err
	}
	r.groups = append(r.groups, g)
	return nil
}

// addPort adds nothing for a protocol that is not known.
func (r *rule) addPort(p *networkingv1.NetworkPolicyPort) {
	protocol, known := protocolNumbers[ptr.Deref(p.Protocol, corev1.ProtocolTCP)]
	if !known {
		return
	}
	switch {
	case p.Port == nil:
		r.ports = append(r.ports, port{protocol: protocol, last: 1<<16 - 1})
	case p.Port.Type == intstr.String:
		r.ports = append(r.ports, port{protocol: protocol, name: p.Port.StrVal})
	default:
		first := uint16(p.Port.IntVal)
		r.ports = append(r.ports, port{protocol: protocol, first: first, last: uint16(ptr.Deref(p.EndPort, p.Port.IntVal))})
	}
}

func parseBlock(b *networkingv1.IPBlock) (block, error) {
	net, err := parsePrefix(b.CIDR)
	if err != nil {
		return block{}, fmt.Errorf("read ipBlock.cidr: %w", err)
	}
	out := block{net: net}
	for i, text := range b.Except {
		except, err := parsePrefix(text)
		if err != nil {
			return block{}, fmt.Errorf("read ipBlock.except[%d]: %w", i, err)
		}
		out.except = append(out.except, except)
	}
	return out, nil
}

// parsePrefix reads what older versions of the API accepted, too: leading zeros, bits beyond the mask, IPv4 within IPv6.
func parsePrefix(text string) (netip.Prefix, error) {
	_, net, err := netutils.ParseCIDRSloppy(text)
	if err != nil {
		return netip.Prefix{}, err
	}
	addr, _ := netip.AddrFromSlice(net.IP)
	bits, size := net.Mask.Size()
	if a := addr.Unmap(); a.Is4() && size == 128 && bits >= 96 {
		addr, bits = a, bits-96
	}
	return netip.PrefixFrom(addr, bits), nil
}

// keyOf names content.
func keyOf(content ...any) (string, error) {
	b, err := json.Marshal(content)
	if err != nil {
		return "", fmt.Errorf("name it: %w", err)
	}
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:12]), nil
}

// open says whether the rule allows all there is.
func (r *rule) open() bool { return r.anyone && r.everything }

// selects says whether the Pod is one of the group, in a namespace with those labels; nil for one that is not known yet, of which only
// a group of all namespaces has Pods.
func (g *group) selects(s *subject, namespace labels.Set) bool {
	if g.namespaces == nil {
		return s.Namespace == g.namespace && g.pods.Matches(s.labels)
	}
	known := namespace != nil || g.namespaces.Empty()
	return known && g.namespaces.Matches(namespace) && g.pods.Matches(s.labels)
}
