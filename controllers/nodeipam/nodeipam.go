// Package nodeipam gives each node its part of the cluster's Pod network: a /24 that no other node has, and where Pods have IPv6 a /64.
package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
	"github.com/peapod/peapod/internal/cidrs"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "node-controller"

// PartBits is the size of a node's part of a network of that family; upstream's default.
func PartBits(is6 bool) int {
	if is6 {
		return 64
	}
	return 24
}

// allocator hands parts out. One worker uses it.
type allocator struct {
	d     engine.Deps
	nodes corelisters.NodeLister
	// last is the part given out last: the search for the next goes on from there, so that the part of a node that is gone
	// rests as long as possible.
	last uint32
	// given are the parts that the informer may not show yet.
	given map[string]cidrs.List
}

// New returns the controller. The first part of the network is the server's own node's.
func New(d engine.Deps) (engine.Runner, error) {
	nodes := d.Informers.Core().V1().Nodes()
	a := &allocator{d: d, nodes: nodes.Lister(), given: map[string]cidrs.List{}}
	loop := &engine.Loop{Name: "nodeipam", Sync: a.sync}
	synced, err := nodes.Informer().AddEventHandler(engine.OnAny(engine.Object(loop)))
	if err != nil {
		return nil, err
	}
	loop.Synced = []cache.DoneChecker{synced.HasSyncedChecker()}
	return loop, nil
}

func (a *allocator) sync(ctx context.Context, key cache.ObjectName) error {
	node, err := a.nodes.Get(key.Name)
	if apierrors.IsNotFound(err) {
		delete(a.given, key.Name)
		return nil
	}
	if err != nil {
		return fmt.Errorf("read node %s: %w", key.Name, err)
	}
	if node.Spec.PodCIDR != "" {
		delete(a.given, key.Name)
		return nil
	}
	part, ok := a.given[node.Name]
	if !ok {
		if part, err = a.next(); err != nil {
			a.d.Recorder.Event(&corev1.ObjectReference{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID},
				corev1.EventTypeNormal, "CIDRNotAvailable", fmt.Sprintf("Node %s status is now: CIDRNotAvailable", node.Name))
			return fmt.Errorf("give node %s a Pod network: %w", node.Name, err)
		}
		a.given[node.Name] = part
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"uid": node.UID},
		"spec": map[string]any{"podCIDR": part.First().String(), "podCIDRs": part.Strings()}})
	if err != nil {
		return err
	}
	_, err = a.d.Client.CoreV1().Nodes().Patch(ctx, node.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	switch {
	case apierrors.IsNotFound(err) || apierrors.IsConflict(err) || apierrors.IsInvalid(err):
		// It has gone, or registered with a part of its own meanwhile; the event of that queues it again.
		delete(a.given, node.Name)
		return nil
	case err != nil:
		return fmt.Errorf("give node %s the Pod network %s: %w", node.Name, part, err)
	}
	return nil
}

// errFull says that the cluster's Pod network has no part left.
var errFull = errors.New("the cluster's Pod network has no free part")

// next finds a part that no node has any of.
func (a *allocator) next() (cidrs.List, error) {
	nodes, err := a.nodes.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	taken := map[netip.Prefix]bool{}
	greatest := uint32(0)
	for _, n := range nodes {
		for _, cidr := range n.Spec.PodCIDRs {
			if p, err := netip.ParsePrefix(cidr); err == nil {
				taken[p] = true
				greatest = max(greatest, a.index(p))
			}
		}
	}
	if a.last == 0 {
		a.last = greatest // after a start: go on behind what is there
	}
	for _, l := range a.given {
		for _, p := range l {
			taken[p] = true
		}
	}
	return a.free(taken)
}

func (a *allocator) free(taken map[netip.Prefix]bool) (cidrs.List, error) {
	count := uint32(0)
	for i, p := range a.d.ClusterCIDRs {
		if n := parts(p); i == 0 || n < count {
			count = n
		}
	}
	// Part 0 is left out: the server's own node takes it without asking.
	for i := uint32(1); i < count; i++ {
		a.last = a.last%(count-1) + 1
		var l cidrs.List
		for _, cluster := range a.d.ClusterCIDRs {
			l = append(l, part(cluster, a.last))
		}
		if !slices.ContainsFunc(l, func(p netip.Prefix) bool { return taken[p] }) {
			return l, nil
		}
	}
	return nil, fmt.Errorf("%w: %s", errFull, a.d.ClusterCIDRs)
}

// index is which part of the cluster's network p is; 0 for what is none.
func (a *allocator) index(p netip.Prefix) uint32 {
	cluster := a.d.ClusterCIDRs.OfFamily(p.Addr().Is6())
	if !cluster.IsValid() || !cluster.Contains(p.Addr()) || p.Bits() != PartBits(p.Addr().Is6()) {
		return 0
	}
	return uint32(number(p) - number(cluster))
}

// mostBits is how many bits tell the parts of a network apart at most: there are no more nodes.
const mostBits = 16

// parts is how many parts a network has.
func parts(cluster netip.Prefix) uint32 {
	spare := PartBits(cluster.Addr().Is6()) - cluster.Bits()
	if spare < 0 {
		return 0
	}
	return 1 << min(spare, mostBits)
}

// number is a network's as a part: its leading bits, up to the part's size.
func number(p netip.Prefix) uint64 {
	b := p.Masked().Addr().AsSlice()[:PartBits(p.Addr().Is6())/8]
	n := uint64(0)
	for _, x := range b {
		n = n<<8 | uint64(x)
	}
	return n
}

// part is the i-th part of a network.
func part(cluster netip.Prefix, i uint32) netip.Prefix {
	is6 := cluster.Addr().Is6()
	b := cluster.Masked().Addr().AsSlice()
	n := number(cluster) + uint64(i)
	for at := PartBits(is6)/8 - 1; at >= 0; at-- {
		b[at] = byte(n)
		n >>= 8
	}
	a, _ := netip.AddrFromSlice(b) // of the length that an address has
	return netip.PrefixFrom(a, PartBits(is6))
}
