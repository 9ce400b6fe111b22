package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	"github.com/peapod/peapod/controllers/nodeipam"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/internal/version"
	"github.com/peapod/peapod/network"
	"github.com/peapod/peapod/runtime/cri"
	"github.com/peapod/peapod/runtime/image"
	"github.com/peapod/peapod/runtime/image/builtin"
	"github.com/peapod/peapod/runtime/supervisor"
	"k8s.io/klog/v2"
)

// firstPart is the part of a server's own node of the cluster's Pod addresses: the first one.
func firstPart(cluster cidrs.List) cidrs.List {
	var l cidrs.List
	for _, p := range cluster {
		l = append(l, netip.PrefixFrom(p.Addr(), max(p.Bits(), nodeipam.PartBits(p.Addr().Is6()))))
	}
	return l
}

// cgroupRoot is the cgroup that holds all others of the instance.
func cgroupRoot(i instance.Instance) string { return "/peapod-" + i.Name }

// containers is what runs containers on this machine: images, network and the CRI service over them.
type containers struct {
	images     *image.Store
	network    *network.Network
	supervisor *supervisor.Client
	service    *cri.Service
}

// podNetwork is what the network of a node's Pods is made from.
type podNetwork struct {
	// node are the addresses of this node's Pods, cluster those of all nodes'.
	node, cluster cidrs.List
	// vni and nodeIP are the overlay's: its number, and where other nodes reach this one. 0: there are no other nodes.
	vni    int
	nodeIP netip.Addr
}

// newContainers composes the engine; open starts it.
func newContainers(ctx context.Context, i instance.Instance, pods podNetwork, o NodeOptions) (*containers, error) {
	e := &containers{}
	var err error
	e.images, err = image.Open(ctx, image.Config{
		Dir: filepath.Join(i.DataDir, "images"), RegistryConfigDir: i.Registries(), InsecureRegistries: o.InsecureRegistries,
	})
	if err != nil {
		return nil, fmt.Errorf("open images: %w", err)
	}
	e.network, err = network.New(network.Config{
		Instance: i.Name, DataDir: filepath.Join(i.DataDir, "network"),
		NodeCIDRs: pods.node, ClusterCIDRs: pods.cluster,
		Overlay: network.Overlay{VNI: pods.vni, NodeIP: pods.nodeIP},
	})
	if err != nil {
		return nil, errors.Join(err, e.images.Close(ctx))
	}
	e.supervisor = supervisor.New(supervisor.Config{
		StateDir: filepath.Join(i.DataDir, "supervisor"), RunDir: i.SupervisorRun(), Cgroup: cgroupRoot(i) + "/supervisor",
	})
	e.service, err = cri.New(cri.Config{
		DataDir: filepath.Join(i.DataDir, "runtime"), RunDir: i.RuntimeRun(), CgroupParent: cgroupRoot(i) + "/pods",
		Supervisor: e.supervisor, Images: e.images, Snapshots: e.images.Snapshots(), Network: e.network,
		SeccompProfileRoot: i.SeccompProfiles(), CDISpecDirs: o.CDISpecDirs, StreamPrefix: streamPrefix, Version: version.Peapod,
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("make container runtime: %w", err), e.images.Close(ctx))
	}
	return e, nil
}

// streamPrefix is the path, on the kubelet's server, below which the runtime's streams are served.
const streamPrefix = "/cri/"

// open takes over the containers that run and makes Peapod's own image available.
func (e *containers) open(ctx context.Context) error {
	if err := e.network.Open(ctx); err != nil {
		return fmt.Errorf("open Pod network: %w", err)
	}
	if err := e.supervisor.Ensure(ctx); err != nil {
		return fmt.Errorf("start container supervisor: %w", err)
	}
	if err := e.service.Open(ctx); err != nil {
		return fmt.Errorf("open container runtime: %w", err)
	}
	live, err := e.sandboxes(ctx)
	if err != nil {
		return err
	}
	if err := e.network.Reconcile(ctx, live); err != nil {
		return fmt.Errorf("reconcile Pod network: %w", err)
	}
	if err := builtin.Import(ctx, e.images); errors.Is(err, builtin.ErrAbsent) {
		klog.FromContext(ctx).Info("No builtin image", "reason", err.Error())
	} else if err != nil {
		return err
	}
	return nil
}

// sandboxes lists the IDs of all sandboxes.
func (e *containers) sandboxes(ctx context.Context) ([]string, error) {
	list, err := e.service.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	ids := make([]string, len(list))
	for i, s := range list {
		ids[i] = s.Id
	}
	return ids, nil
}

// close leaves the containers running.
func (e *containers) close() error {
	ctx := context.Background()
	return errors.Join(e.service.Close(ctx), e.network.Close(), e.images.Close(ctx))
}
