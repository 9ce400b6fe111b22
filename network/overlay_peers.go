package network

import (
	"context"
	"net/netip"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Peers keeps the overlay in line with the nodes of the cluster, which an informer tells of.
type Peers struct {
	network *Network
	self    string
	synced  cache.DoneChecker
	// changed holds one token when there is something to do; many events at once come to one pass.
	changed chan struct{}

	mu     sync.Mutex
	claims claims
}

// NewPeers follows the nodes but the one called self. Somebody else starts the informer.
func (n *Network) NewPeers(self string, nodes coreinformers.NodeInformer) (*Peers, error) {
	p := &Peers{network: n, self: self, changed: make(chan struct{}, 1), claims: newClaims()}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) { p.set(obj.(*corev1.Node)) },
		UpdateFunc: func(old, now any) {
			was, is := old.(*corev1.Node), now.(*corev1.Node)
			// A node that was deleted and made anew in between has its old claim, and another age.
			if peerOf(was) != peerOf(is) || was.UID != is.UID {
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
	is := claim{Peer: peerOf(node), since: node.CreationTimestamp.Time}
	if is.CIDR.IsValid() {
		if err := p.network.reaches(is.CIDR); err != nil {
			klog.Background().Error(err, "Cannot lead to a node, leaving it out", "node", node.Name)
			is.CIDR = netip.Prefix{}
		}
	}
	p.mu.Lock()
	err := p.claims.set(is)
	p.mu.Unlock()
	if err != nil {
		klog.Background().Error(err, "Two nodes have the same Pod network")
	}
	p.change()
}

func (p *Peers) remove(obj any) {
	name, err := cache.DeletionHandlingObjectToName(obj)
	if err != nil {
		return // no object without a name comes from an informer
	}
	p.mu.Lock()
	p.claims.remove(name.Name)
	p.mu.Unlock()
	p.change()
}

// take returns what has changed since the last call, see ChangePeers.
func (p *Peers) take() map[netip.Prefix]Peer {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.claims.take()
}

func (p *Peers) change() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Times after which a pass that failed is repeated.
const peersRetryFirst, peersRetryMax = 100 * time.Millisecond, 30 * time.Second

// Run works until ctx ends; the overlay stays as it is then.
func (p *Peers) Run(ctx context.Context) error {
	if !cache.WaitFor(ctx, "", p.synced) {
		return nil
	}
	p.change()
	retry := peersRetryFirst
	var again <-chan time.Time
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-p.changed:
		case <-again:
		}
		again = nil
		err := p.network.ChangePeers(ctx, p.take())
		if err == nil || ctx.Err() != nil {
			retry = peersRetryFirst
			continue
		}
		klog.FromContext(ctx).Error(err, "Failed to lead to all other nodes, will try again", "after", retry)
		again, retry = time.After(retry), min(2*retry, peersRetryMax)
	}
}

// peerOf reads what the overlay must know of a node; what is missing stays invalid.
func peerOf(node *corev1.Node) Peer {
	peer := Peer{Name: node.Name}
	if cidr, err := netip.ParsePrefix(node.Spec.PodCIDR); err == nil {
		peer.CIDR = cidr.Masked()
	}
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			peer.IP = ip
			break
		}
	}
	return peer
}
