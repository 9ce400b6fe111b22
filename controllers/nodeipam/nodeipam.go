// Package nodeipam gives each node its part of the cluster's Pod network: a /24 that no other node has.
package nodeipam

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"github.com/peapod/peapod/controllers/engine"
)

// Name is that of the service account in kube-system as which the controller acts; upstream's, so that the bootstrap role
// of the same name fits.
const Name = "node-controller"

// nodeBits is the size of a node's part.
const nodeBits = 24

// allocator hands parts out. One worker uses it.
type allocator struct {
	d     engine.Deps
	nodes corelisters.NodeLister
	// last is the part given out last: the search for the next goes on from there, so that the part of a node that is gone
	// rests as long as possible.
	last uint32
	// given are the parts that the informer may not show yet.
	given map[string]netip.Prefix
}

// New returns the controller. The first part of the network is the server's own node's.
func New(d engine.Deps) (engine.Runner, error) {
	nodes := d.Informers.Core().V1().Nodes()
	a := &allocator{d: d, nodes: nodes.Lister(), given: map[string]netip.Prefix{}}
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
		"spec": map[string]any{"podCIDR": part.String(), "podCIDRs": []string{part.String()}}})
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

// next finds a part that no node has.
func (a *allocator) next() (netip.Prefix, error) {
	nodes, err := a.nodes.List(labels.Everything())
	if err != nil {
		return netip.Prefix{}, err
	}
	taken := map[netip.Prefix]bool{}
	greatest := uint32(0)
	for _, n := range nodes {
		if p, err := netip.ParsePrefix(n.Spec.PodCIDR); err == nil {
			taken[p] = true
			greatest = max(greatest, index(a.d.ClusterCIDR, p))
		}
	}
	if a.last == 0 {
		a.last = greatest // after a start: go on behind what is there
	}
	for _, p := range a.given {
		taken[p] = true
	}
	return a.free(taken)
}

func (a *allocator) free(taken map[netip.Prefix]bool) (netip.Prefix, error) {
	cluster := a.d.ClusterCIDR
	if !cluster.IsValid() || !cluster.Addr().Is4() || cluster.Bits() >= nodeBits {
		return netip.Prefix{}, errFull
	}
	count := uint32(1) << (nodeBits - cluster.Bits())
	// Part 0 is left out: the server's own node takes it without asking.
	for range count - 1 {
		a.last = a.last%(count-1) + 1
		if p := part(cluster, a.last); !taken[p] {
			return p, nil
		}
	}
	return netip.Prefix{}, fmt.Errorf("%w: %s", errFull, cluster)
}

// part is the i-th part of a network.
func part(cluster netip.Prefix, i uint32) netip.Prefix {
	base := cluster.Masked().Addr().As4()
	var b [4]byte
	binary.BigEndian.PutUint32(b[:], binary.BigEndian.Uint32(base[:])+i<<(32-nodeBits))
	return netip.PrefixFrom(netip.AddrFrom4(b), nodeBits)
}

// index is the inverse of part; 0 for what is no part.
func index(cluster, p netip.Prefix) uint32 {
	if !cluster.IsValid() || !p.Addr().Is4() || !cluster.Contains(p.Addr()) {
		return 0
	}
	base, b := cluster.Masked().Addr().As4(), p.Addr().As4()
	return (binary.BigEndian.Uint32(b[:]) - binary.BigEndian.Uint32(base[:])) >> (32 - nodeBits)
}
