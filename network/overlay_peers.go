package network

import (
	"context"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"
)

// Peers keeps the overlay in line with the nodes of the cluster, which an informer tells of.
type Peers struct {
	network *Network
	self    string
	nodes   coreinformers.NodeInformer
	synced  cache.DoneChecker
	// changed holds one token when there is something to do; many events at once come to one pass.
	changed chan struct{}
}

// NewPeers follows the nodes but the one called self. Somebody else starts the informer.
func (n *Network) NewPeers(self string, nodes coreinformers.NodeInformer) (*Peers, error) {
	p := &Peers{network: n, self: self, nodes: nodes, changed: make(chan struct{}, 1)}
	registration, err := nodes.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(any) { p.change() },
		UpdateFunc: func(old, now any) {
			was, is := peerOf(old.(*corev1.Node)), peerOf(now.(*corev1.Node))
			if was != is {
				p.change()
			}
		},
		DeleteFunc: func(any) { p.change() },
	})
	if err != nil {
		return nil, err
	}
	p.synced = registration.HasSyncedChecker()
	return p, nil
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
		err := p.network.SetPeers(ctx, p.list())
		if err == nil || ctx.Err() != nil {
			retry = peersRetryFirst
			continue
		}
		klog.FromContext(ctx).Error(err, "Failed to lead to all other nodes, will try again", "after", retry)
		again, retry = time.After(retry), min(2*retry, peersRetryMax)
	}
}

// list returns the other nodes that have an address and Pods' addresses, the oldest first.
func (p *Peers) list() []Peer {
	nodes, err := p.nodes.Lister().List(labels.Everything())
	if err != nil {
		return nil // a lister of a store in memory does not fail
	}
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
			return a.CreationTimestamp.Compare(b.CreationTimestamp.Time)
		}
		return strings.Compare(a.Name, b.Name)
	})
	var peers []Peer
	for _, node := range nodes {
		if peer := peerOf(node); node.Name != p.self && peer.IP.IsValid() && peer.CIDR.IsValid() {
			peers = append(peers, peer)
		}
	}
	return peers
}

// peerOf reads what the overlay must know of a node; what is missing stays invalid.
func peerOf(node *corev1.Node) Peer {
	peer := Peer{Name: node.Name}
	if cidr, err := netip.ParsePrefix(node.Spec.PodCIDR); err == nil {
		peer.CIDR = cidr
	}
	for _, a := range node.Status.Addresses {
		if ip, err := netip.ParseAddr(a.Address); err == nil && a.Type == corev1.NodeInternalIP {
			peer.IP = ip
			break
		}
	}
	return peer
}
