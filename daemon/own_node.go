package daemon

import (
	"context"
	"fmt"
	"sync"

	"google.golang.org/grpc"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/runtime/cri"
)

// opening is a container runtime that is being opened in the background.
type opening struct {
	*containers
	pods cidrs.List
	// wait returns how that ended, each time.
	wait func() error
}

// openContainers begins to open the runtime of a node whose Pods have the addresses pods.
func openContainers(ctx context.Context, ps *parts, i instance.Instance, s settled, k keyed, pods cidrs.List) (*opening, error) {
	e, err := newContainers(ctx, i, podNetwork{
		node: pods, cluster: k.ranges.Cluster, vni: vniOf(k.keys.ServerCA().Pin()), nodeIP: s.nodeIP(),
	}, s.NodeOptions)
	if err != nil {
		return nil, err
	}
	ps.closing("container runtime", e.close)
	opened := make(chan error, 1)
	go func() { opened <- e.open(ctx) }()
	return &opening{e, pods, sync.OnceValue(func() error { return <-opened })}, nil
}

// nodeParts is this machine as a node of the cluster that its server serves.
type nodeParts struct {
	socket   string
	backups  func(grpc.ServiceRegistrar)
	engine   *containers
	node     *node
	services *nodeServices
	peers    *network.Peers
}

// newNodeParts composes them on the informers that all share, which are started by their owner afterwards.
func newNodeParts(i instance.Instance, s settled, c *control, k keyed, o *opening) (*nodeParts, error) {
	n := &nodeParts{socket: i.Socket(), backups: serveBackups(i, k.store), engine: o.containers}
	m, err := c.membership(s, k.kubeletListener, o.pods)
	if err != nil {
		return nil, err
	}
	if n.services, err = newServerServices(i, s, c, k, o.pods); err != nil {
		return nil, err
	}
	m.network = n.services.policies
	if n.node, err = newNode(i, s, o.containers, m); err != nil {
		return nil, err
	}
	n.peers, err = o.network.NewPeers(s.NodeName, c.informers.Core().V1().Nodes())
	return n, err
}

func (n *nodeParts) start(ps *parts) {
	ps.start("CRI socket", func(ctx context.Context) error {
		return cri.Serve(ctx, n.socket, n.engine.service, n.engine.images, n.backups)
	})
	ps.start("overlay", n.peers.Run)
	ps.start("services", n.services.run)
	ps.start("node", n.node.run)
}

// joinNode makes this machine a node beside those of other servers: its Pods get the addresses that the cluster gives it, as
// an agent's do.
func joinNode(ctx context.Context, ps *parts, i instance.Instance, s settled, c *control, k keyed) (*nodeParts, error) {
	r, err := readShared(i)
	if err != nil {
		return nil, err
	}
	client, _, err := c.clientFor(asUser(nodeUser(s.NodeName), user.NodesGroup))
	if err != nil {
		return nil, err
	}
	before := r.PodCIDRs
	at := registration{name: s.NodeName, before: before, node: client, nodes: c.system}
	// Without an answer, because nobody leads yet for instance, a node that has been one goes on with what it had.
	err = attempt(ctx, "register the node", len(before) > 0, func(ctx context.Context) error {
		pods, err := at.podCIDRs(ctx)
		if err == nil {
			r.PodCIDRs = pods
		}
		return err
	})
	if err != nil {
		if ctx.Err() != nil {
			return nil, nil // told to stop meanwhile
		}
		return nil, err
	}
	if len(before) > 0 && !before.Equal(r.PodCIDRs) {
		klog.FromContext(ctx).Info("The node has another Pod network than before; killing its Pods", "before", before, "now", r.PodCIDRs)
		if _, err := killPods(ctx, i); err != nil {
			return nil, err
		}
	}
	if err := r.write(i); err != nil {
		return nil, err
	}
	o, err := openContainers(ctx, ps, i, s, k, r.PodCIDRs)
	if err != nil {
		return nil, err
	}
	if err := o.wait(); err != nil {
		return nil, err
	}
	n, err := newNodeParts(i, s, c, k, o)
	if err != nil {
		return nil, fmt.Errorf("make the node: %w", err)
	}
	ps.start("the node's informers", c.startInformers)
	return n, nil
}
