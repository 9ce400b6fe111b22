package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"

	"github.com/peapod/peapod/network/nettest"
	"github.com/peapod/peapod/network/nft"
)

func TestMain(m *testing.M) { nettest.Main(m) }

const here = "n1"

var both = []family{familyOf(false), familyOf(true)}

// pod is a Pod on a node, with addresses of both families that end in the same number.
func pod(namespace, name, node string, number int, set map[string]string, ports ...corev1.ContainerPort) *corev1.Pod {
	subnet := 0
	if node != here {
		subnet = 1
	}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, UID: types.UID(namespace + name), Labels: set,
			CreationTimestamp: metav1.NewTime(time.Unix(1000, 0))},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Name: "c", Ports: ports}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIPs: []corev1.PodIP{
			{IP: fmt.Sprintf("10.244.%d.%d", subnet, number)}, {IP: fmt.Sprintf("fd00:244:%d::%d", subnet, number)}}},
	}
}

func named(name string, protocol corev1.Protocol, number int32) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, Protocol: protocol, ContainerPort: number}
}

// policyOf reads the spec of a policy as users write it; what the API fills in is filled in.
func policyOf(t testing.TB, namespace, name, spec string) *networkingv1.NetworkPolicy {
	t.Helper()
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	if err := yaml.UnmarshalStrict([]byte(spec), &p.Spec); err != nil {
		t.Fatalf("%s: %v", spec, err)
	}
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	return p
}

// objects are those of a cluster.
type objects struct {
	namespaces map[string]labels.Set
	pods       []*corev1.Pod
	policies   []*networkingv1.NetworkPolicy
}

// small is a cluster of two nodes and two namespaces.
func small() *objects {
	web := []corev1.ContainerPort{named("http", corev1.ProtocolTCP, 8080), named("dns", corev1.ProtocolUDP, 53)}
	return &objects{
		namespaces: map[string]labels.Set{"x": {"team": "a"}, "y": {"team": "b"}},
		pods: []*corev1.Pod{
			pod("x", "web", here, 2, map[string]string{"app": "web"}, web...),
			pod("x", "db", here, 3, map[string]string{"app": "db"}, named("http", corev1.ProtocolTCP, 5432)),
			pod("y", "web", "n2", 2, map[string]string{"app": "web"}, named("http", corev1.ProtocolTCP, 9090)),
			pod("y", "client", here, 4, map[string]string{"app": "client"}),
		},
	}
}

// stateOf is the state of a node that knows all of it.
func (o *objects) stateOf(t testing.TB) *state {
	t.Helper()
	s := newState(both)
	for name, set := range o.namespaces {
		s.setNamespace(name, set)
	}
	for _, p := range o.pods {
		s.setPod(types.NamespacedName{Namespace: p.Namespace, Name: p.Name}, subjectOf(p, here))
	}
	for _, p := range o.policies {
		setPolicy(t, s, p)
	}
	s.settle()
	return s
}

func setPolicy(t testing.TB, s *state, obj *networkingv1.NetworkPolicy) {
	t.Helper()
	p, err := parse(obj)
	nettest.Must(t, err)
	s.setPolicy(types.NamespacedName{Namespace: obj.Namespace, Name: obj.Name}, p)
}

// forwarded says whether a node lets the first packet of a connection through.
func forwarded(t testing.TB, table *nft.Table, src, dst netip.Addr, protocol byte, port uint16) bool {
	t.Helper()
	for _, chain := range []string{egress.String(), ingress.String()} {
		p := &nettest.Packet{Src: src, Dst: dst, Protocol: protocol, Port: port}
		switch v := p.Walk(t, table, chain); v {
		case "drop":
			return false
		case "", "accept":
		default:
			t.Fatalf("chain %s says %q", chain, v)
		}
	}
	return true
}

// permitted is what the API's documentation says of a connection as far as this node enforces it, straight from the objects: what its
// own Pods may send, and what they may be sent.
func (o *objects) permitted(src, dst netip.Addr, protocol corev1.Protocol, port int32) bool {
	from, to := o.at(src), o.at(dst)
	if from != nil && from == to {
		return true
	}
	allows := func(d direction, pod *corev1.Pod, peer netip.Addr) bool {
		if pod == nil || pod.Spec.NodeName != here {
			return true
		}
		isolated := false
		for _, p := range o.policies {
			if p.Namespace != pod.Namespace || !matches(&p.Spec.PodSelector, pod.Labels) {
				continue
			}
			types := map[direction]networkingv1.PolicyType{ingress: networkingv1.PolicyTypeIngress, egress: networkingv1.PolicyTypeEgress}
			if !slices.Contains(p.Spec.PolicyTypes, types[d]) {
				continue
			}
			isolated = true
			if d == ingress {
				for _, r := range p.Spec.Ingress {
					if o.peers(p.Namespace, r.From, peer) && o.fits(r.Ports, to, protocol, port) {
						return true
					}
				}
				continue
			}
			for _, r := range p.Spec.Egress {
				if o.peers(p.Namespace, r.To, peer) && o.fits(r.Ports, to, protocol, port) {
					return true
				}
			}
		}
		return !isolated
	}
	return allows(egress, from, dst) && allows(ingress, to, src)
}

func (o *objects) at(a netip.Addr) *corev1.Pod {
	for _, p := range o.pods {
		for _, ip := range p.Status.PodIPs {
			if netip.MustParseAddr(ip.IP) == a {
				return p
			}
		}
	}
	return nil
}

func matches(s *metav1.LabelSelector, set map[string]string) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(set))
}

func (o *objects) peers(namespace string, all []networkingv1.NetworkPolicyPeer, a netip.Addr) bool {
	pod := o.at(a)
	for _, p := range all {
		if b := p.IPBlock; b != nil {
			in := func(cidr string) bool { return netip.MustParsePrefix(cidr).Contains(a) }
			if in(b.CIDR) && !slices.ContainsFunc(b.Except, in) {
				return true
			}
			continue
		}
		if pod == nil || p.PodSelector != nil && !matches(p.PodSelector, pod.Labels) {
			continue
		}
		if p.NamespaceSelector == nil && pod.Namespace == namespace || p.NamespaceSelector != nil && matches(p.NamespaceSelector, o.namespaces[pod.Namespace]) {
			return true
		}
	}
	return len(all) == 0
}

func (o *objects) fits(all []networkingv1.NetworkPolicyPort, to *corev1.Pod, protocol corev1.Protocol, port int32) bool {
	for _, p := range all {
		if ptr.Deref(p.Protocol, corev1.ProtocolTCP) != protocol {
			continue
		}
		switch {
		case p.Port == nil:
			return true
		case p.Port.StrVal != "":
			if to != nil && slices.ContainsFunc(to.Spec.Containers[0].Ports, func(c corev1.ContainerPort) bool {
				return c.Name == p.Port.StrVal && c.Protocol == protocol && c.ContainerPort == port
			}) {
				return true
			}
		case port >= p.Port.IntVal && port <= ptr.Deref(p.EndPort, p.Port.IntVal):
			return true
		}
	}
	return len(all) == 0
}
