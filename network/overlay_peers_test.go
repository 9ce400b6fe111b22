package network

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/network/nft"
)

func peerNode(name, cidr string, age time.Duration, addresses ...corev1.NodeAddress) *corev1.Node {
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age))},
		Status:     corev1.NodeStatus{Addresses: addresses},
	}
	if cidr != "" {
		give(node, cidr)
	}
	return node
}

// give sets the node's Pod networks as the API server has them: the first is in both fields.
func give(node *corev1.Node, networks ...string) {
	node.Spec.PodCIDR, node.Spec.PodCIDRs = networks[0], networks
}

func internal(ip string) corev1.NodeAddress {
	return corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: ip}
}

// followed returns peers that know the nodes, and a client that changes those.
func followed(t *testing.T, nodes ...runtime.Object) (*Peers, *fake.Clientset) {
	t.Helper()
	client := fake.NewClientset(nodes...)
	factory := informers.NewSharedInformerFactory(client, 0)
	n, err := New(Config{Instance: t.Name(), DataDir: t.TempDir(), NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}})
	if err != nil {
		t.Fatal(err)
	}
	p, err := n.NewPeers("self", factory.Core().V1().Nodes())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	factory.StartWithContext(ctx)
	if !cache.WaitFor(ctx, "", p.synced) {
		t.Fatal("informer did not sync")
	}
	return p, client
}

func TestPeersAreTheOtherNodesThatCanBeReached(t *testing.T) {
	external := corev1.NodeAddress{Type: corev1.NodeExternalIP, Address: "192.0.2.9"}
	p, _ := followed(t,
		peerNode("self", "10.42.0.0/24", 9*time.Hour, internal("192.0.2.1")),
		peerNode("young", "10.42.1.0/24", time.Minute, external, internal("192.0.2.2")),
		peerNode("b", "10.42.2.0/24", time.Hour, internal("192.0.2.3"), internal("192.0.2.4")),
		peerNode("a", "10.42.3.9/24", time.Hour, internal("2001:db8::5")),
		peerNode("copy", "10.42.3.0/24", time.Minute, internal("192.0.2.8")),
		peerNode("other-family", "2001:db8:1::/64", time.Hour, internal("192.0.2.8")),
		peerNode("own-range", "10.42.0.128/25", time.Hour, internal("192.0.2.8")),
		peerNode("no-range", "", time.Hour, internal("192.0.2.6")),
		peerNode("bad-range", "10.42.0.0", time.Hour, internal("192.0.2.7")),
		peerNode("no-address", "10.42.4.0/24", time.Hour, external),
		peerNode("bad-address", "10.42.5.0/24", time.Hour, internal("here")),
	)
	want := map[netip.Prefix]Peer{}
	for _, peer := range []Peer{
		{Name: "a", IP: netip.MustParseAddr("2001:db8::5"), CIDR: netip.MustParsePrefix("10.42.3.0/24")},
		{Name: "b", IP: netip.MustParseAddr("192.0.2.3"), CIDR: netip.MustParsePrefix("10.42.2.0/24")},
		{Name: "young", IP: netip.MustParseAddr("192.0.2.2"), CIDR: netip.MustParsePrefix("10.42.1.0/24")},
	} {
		peer.First = peer.CIDR
		want[peer.CIDR] = peer
	}
	if got := p.take(); !maps.Equal(got, want) {
		t.Errorf("peers are %v\nwant      %v", got, want)
	}
}

// A node's heartbeats change nothing about the overlay and must not cost a pass.
func TestPeerIsWhatTheOverlayKnows(t *testing.T) {
	node := peerNode("n", "10.42.1.0/24", time.Hour, internal("192.0.2.2"))
	before := peersOf(node)
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, LastHeartbeatTime: metav1.Now()}}
	node.Status.Addresses = append(node.Status.Addresses, internal("192.0.2.3"))
	if got := peersOf(node); got != before {
		t.Errorf("after a heartbeat the peer is %v, not %v", got, before)
	}
	node.Status.Addresses = node.Status.Addresses[1:]
	if got := peersOf(node); got == before {
		t.Error("another address makes no difference")
	}
}

func TestPeersFollowTheNodes(t *testing.T) {
	p, client := followed(t)
	nodes := client.CoreV1().Nodes()
	have := map[netip.Prefix]Peer{}
	await := func(what string, want int) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		p.bell.Answer(ctx, "", func(context.Context) error {
			for cidr, peer := range p.take() {
				if have[cidr] = peer; peer == (Peer{}) {
					delete(have, cidr)
				}
			}
			if len(have) == want {
				cancel()
			}
			return nil
		})
		if len(have) != want {
			t.Fatalf("no pass after %s: peers are %v", what, have)
		}
	}
	node, err := nodes.Create(t.Context(), peerNode("n", "", time.Hour, internal("192.0.2.2")), metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	give(node, "10.42.1.0/24")
	if _, err := nodes.Update(t.Context(), node, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	await("a node gets its range", 1)
	if err := nodes.Delete(t.Context(), "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	await("a node is deleted", 0)
}

// After any changes each network has the oldest node that claims it, and take has told of every move.
func TestClaims(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	c := newClaims()
	nodes := map[string]claim{}
	have := map[netip.Prefix]Peer{}
	rivals := 0
	for step := range 5000 {
		name := fmt.Sprint("n", random.IntN(8))
		if random.IntN(4) == 0 {
			c.remove(claimant{name, false})
			delete(nodes, name)
		} else {
			is := claim{Peer: Peer{Name: name, IP: netip.AddrFrom4([4]byte{192, 0, 2, byte(random.IntN(3))})}, since: time.Unix(random.Int64N(3), 0)}
			if network := random.IntN(5); network > 0 {
				is.CIDR = netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 42, byte(network), 0}), 24)
			}
			if err := c.set(is, false); err != nil {
				rivals++
			}
			nodes[name] = is
		}
		if random.IntN(3) == 0 {
			continue // several changes come to one look
		}
		for cidr, peer := range c.take() {
			if have[cidr] = peer; peer == (Peer{}) {
				delete(have, cidr)
			}
		}
		want := map[netip.Prefix]Peer{}
		for _, is := range slices.SortedFunc(maps.Values(nodes), byAge) {
			if _, taken := want[is.CIDR]; !taken && is.CIDR.IsValid() {
				want[is.CIDR] = is.Peer
			}
		}
		if !maps.Equal(have, want) {
			t.Fatalf("step %d: the networks have %v\nwant %v", step, have, want)
		}
	}
	if rivals == 0 {
		t.Error("no two nodes claimed one network")
	}
}

// Of two nodes that claim one network the younger is named, whichever comes first.
func TestRivalIsNamed(t *testing.T) {
	old := claim{Peer: Peer{Name: "old", IP: netip.MustParseAddr("192.0.2.1"), CIDR: netip.MustParsePrefix("10.42.1.0/24")}, since: time.Unix(1, 0)}
	young := old
	young.Name, young.since = "young", time.Unix(2, 0)
	for _, order := range [][]claim{{old, young}, {young, old}} {
		c := newClaims()
		if err := c.set(order[0], false); err != nil {
			t.Error(err)
		}
		if err := c.set(order[1], false); err == nil || err.Error() != "leave out node young: node old has its Pod network 10.42.1.0/24" {
			t.Errorf("after %s: %v", order[0].Name, err)
		}
	}
}

// TestPeersOfTwoFamilies: a node with a network of each is led to by both, by one hardware address, and goes with both.
func TestPeersOfTwoFamilies(t *testing.T) {
	c := newClaims()
	node := peerNode("n", "10.42.1.0/24", time.Hour, internal("192.0.2.2"), internal("2001:db8::2"))
	give(node, "10.42.1.0/24", "2001:db8:42:1::/64")
	first := netip.MustParsePrefix("10.42.1.0/24")
	want := map[netip.Prefix]Peer{}
	for family, peer := range peersOf(node) {
		if peer.IP != netip.MustParseAddr("192.0.2.2") || peer.First != first || peer.CIDR.String() != node.Spec.PodCIDRs[family] {
			t.Errorf("in family %d the peer is %v", family, peer)
		}
		want[peer.CIDR] = peer
		if err := c.set(claim{Peer: peer}, family == 1); err != nil {
			t.Error(err)
		}
	}
	if got := c.take(); !maps.Equal(got, want) || len(got) != 2 {
		t.Errorf("the networks have %v, want %v", got, want)
	}
	c.remove(claimant{"n", false})
	c.remove(claimant{"n", true})
	for cidr, peer := range c.take() {
		if peer != (Peer{}) {
			t.Errorf("%s leads to %v after the node is gone", cidr, peer)
		}
	}
}

// Pods can see a node by its address only where both are of one family.
func TestNodeNames(t *testing.T) {
	n := &Network{cfg: Config{NodeCIDRs: []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24"), netip.MustParsePrefix("2001:db8:42::/64")}}}
	four, six := netip.MustParsePrefix("10.42.1.0/24"), netip.MustParsePrefix("10.42.2.0/24")
	second := netip.MustParsePrefix("2001:db8:42:3::/64")
	got := n.nodeNames(map[netip.Prefix]Peer{four: {IP: netip.MustParseAddr("192.0.2.1")}, six: {IP: netip.MustParseAddr("2001:db8::1")}, second: {IP: netip.MustParseAddr("2001:db8::3")}})
	if want := map[string]nft.Value{"\x0a\x2a\x01\x01": {Data: "\xc0\x00\x02\x01"}}; !maps.Equal(got, want) {
		t.Errorf("names are %v, want %v", got, want)
	}
}
