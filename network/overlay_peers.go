package network

import (
	"context"
	"net/netip"
	"sync"

	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/bell"
)

// Peers keeps the overlay in line with the nodes of the cluster, which an informer tells of.
type Peers struct {
	network *Network
	self    string
	synced  cache.DoneChecker
	bell    bell.Bell

	mu     sync.Mutex
	claims claims
}

// NewPeers follows the nodes but the one called self. Somebody else starts the informer.
func (n *Network) NewPeers(self string, nodes coreinformers.NodeInformer) (*Peers, error) {
	p := &Peers{network: n, self: self, bell: bell.New(), claims: newClaims()}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { p.set(obj.(*corev1.Node)) },
		UpdateFunc: func(old, now any) {
			was, is := old.(*corev1.Node), now.(*corev1.Node)
			// A node that was deleted and made anew in between has its old claim, and another age.
			if peersOf(was) != peersOf(is) || was.UID != is.UID {
				p.set(is)
			}
		},
		DeleteFunc: p.remove,
	})
	if err != nil {
		return nil, err
	}
	p.synced = registration.HasSyncedChecker()
	return p, nil
}

// set takes a node as it is now. One that cannot be led to is said once, and counts as none.
func (p *Peers) set(node *corev1.Node) {
	if node.Name == p.self {
		return
	}
	for family, peer := range peersOf(node) {
		is := claim{Peer: peer, since: node.CreationTimestamp.Time}
		if is.CIDR.IsValid() {
			if err := p.network.reaches(is.CIDR); err != nil {
				klog.Background().Error(err, "Cannot lead to a node, leaving it out", "node", node.Name)
				is.CIDR = netip.Prefix{}
			}
		}
		p.mu.Lock()
		err := p.claims.set(is, family == 1)
		p.mu.Unlock()
		if err != nil {
			klog.Background().Error(err, "Two nodes have the same Pod network")
		}
	}
	p.bell.Ring()
}

func (p *Peers) remove(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		return // no object without a name comes from an informer
	}
	p.mu.Lock()
	p.claims.remove(claimant{name.Name, false})
	p.claims.remove(claimant{name.Name, true})
	p.mu.Unlock()
	p.bell.Ring()
}

// take returns what has changed since the last call, see ChangePeers.
func (p *Peers) take() map[netip.Prefix]Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claims.take()
}

// Run works until ctx ends; the overlay stays as it is then.
func (p *Peers) Run(ctx context.Context) error {
	if !cache.WaitFor(ctx, "", p.synced) {
		return nil
	}
	p.bell.Answer(ctx, "Cannot lead to all other nodes, will retry", func(ctx context.Context) error {
		return p.network.ChangePeers(ctx, p.take())
	})
	return nil
}

// peersOf reads what the overlay must know of a node, for IPv4 and for IPv6 Pods; what is missing stays invalid.
func peersOf(node *corev1.Node) (peers [2]Peer) {
	peer := Peer{Name: node.Name}
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			peer.IP = ip
			break
		}
	}
	peers = [2]Peer{peer, peer}
	var first netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			continue // validation has seen to it
		}
		cidr = cidr.Masked()
		if !first.IsValid() {
			first = cidr
		}
		family := 0
		if cidr.Addr().Is6() {
			family = 1
		}
		peers[family].CIDR, peers[family].First = cidr, first
	}
	return peers
}
