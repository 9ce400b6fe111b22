package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"

	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/informers"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/network/policy"
	"github.com/peapod/peapod/runtime/cri"
)

// RunAgent makes this machine a node of a cluster that a server elsewhere runs: it returns when ctx ends and everything
// has stopped, or when a part fails. Containers keep running. While the server is away the node goes on with its Pods.
func RunAgent(ctx context.Context, i instance.Instance, o AgentOptions) error {
	if err := onlyAgent(i); err != nil {
		return err
	}
	record, err := readAgent(i)
	if err != nil {
		return err
	}
	a, err := o.settle(record)
	if err != nil {
		return err
	}
	lock, err := claim(i)
	if err != nil {
		return err
	}
	defer lock.Release()
	if err := placeKubelet(i, a.RootDir); err != nil {
		return err
	}
	j, err := joinCluster(ctx, i, a)
	if err != nil {
		if ctx.Err() != nil {
			return nil // told to stop while it waited for the server
		}
		return err
	}
	ps, ctx := newParts(ctx)
	err = startAgent(ctx, ps, i, j)
	if err == nil {
		<-ctx.Done()
		klog.FromContext(ctx).Info("Stopping")
	}
	return errors.Join(err, ps.stop())
}

// startAgent starts all parts and returns when the node runs.
func startAgent(ctx context.Context, ps *parts, i instance.Instance, j *joined) error {
	config := j.record.Config
	if err := claimAgentRanges(i, config); err != nil {
		return err
	}
	listener, err := listenKubelet(i, j.settled)
	if err != nil {
		return err
	}
	ps.closing("kubelet listener", func() error { return ignoreClosed(listener.Close()) })
	j.start(ctx, ps)
	e, err := newContainers(ctx, i, podNetwork{node: j.record.PodCIDRs, cluster: config.Cluster, vni: config.VNI, nodeIP: j.nodeIP()}, j.NodeOptions)
	if err != nil {
		return err
	}
	ps.closing("container runtime", e.close)
	if err := e.open(ctx); err != nil {
		return err
	}
	ps.start("CRI socket", func(ctx context.Context) error { return cri.Serve(ctx, i.Socket(), e.service, e.images) })
	clientCA, err := dynamiccertificates.NewStaticCAContent("client-ca", []byte(config.ClientCA))
	if err != nil {
		return fmt.Errorf("read the cluster's client CA: %w", err)
	}
	shared := informers.NewSharedInformerFactory(j.asProxy, 0)
	services, err := newNodeServices(i, serviceConfig{
		client: j.asProxy, asNode: j.asNode, nodeName: j.NodeName, nodeIPs: j.nodeIPs, domain: config.Domain, service: config.Service, cluster: config.Cluster, pods: j.record.PodCIDRs,
		reserved: []uint16{uint16(listener.Addr().(*net.TCPAddr).Port)}, informers: shared, all: policy.Own(j.asProxy), resolvConf: j.ResolvConf,
	})
	if err != nil {
		return err
	}
	n, err := newNode(i, j.settled, e, membership{client: j.asNode, serving: j.serving, clientCA: clientCA, certified: j.serving.Ready(), own: j.node, ownServing: j.serving,
		pods: j.record.PodCIDRs, service: config.Service, domain: config.Domain, listener: listener, network: services.policies})
	if err != nil {
		return err
	}
	peers, err := e.network.NewPeers(j.NodeName, shared.Core().V1().Nodes())
	if err != nil {
		return err
	}
	if err := j.followServers(ctx, i, shared); err != nil {
		return err
	}
	ps.start("informers", func(ctx context.Context) error {
		shared.StartWithContext(ctx)
		<-ctx.Done()
		shared.Shutdown()
		return nil
	})
	ps.start("overlay", peers.Run)
	ps.start("services", services.run)
	ps.start("node", n.run)
	select {
	case <-n.kubelet.Node().Registered():
	case <-ctx.Done():
		return nil
	}
	klog.FromContext(ctx).Info("Ready", "server", j.server.String(), "node", j.NodeName, "pods", j.record.PodCIDRs, "pid", os.Getpid())
	return i.MarkReady()
}

// claimAgentRanges takes the cluster's addresses on this machine, the first time only where nothing else uses them.
func claimAgentRanges(i instance.Instance, config *nodeConfig) error {
	used := []netip.Prefix(nil)
	if _, made, err := i.Ranges(); err != nil {
		return err
	} else if !made {
		if used, err = usedPrefixes(); err != nil {
			return err
		}
	}
	if _, err := i.ClaimRanges(config.ranges(), used); err != nil {
		return fmt.Errorf("take the cluster's addresses on this machine: %w", err)
	}
	return nil
}

// start starts what keeps this machine a member: who the servers are, and its certificates.
func (j *joined) start(ctx context.Context, ps *parts) {
	ps.start("servers", func(own context.Context) error {
		j.servers.Run(ctx) // no longer than it takes until all are told to stop: nobody is to wait for a server then
		<-own.Done()
		return nil
	})
	ps.start("node certificate", func(ctx context.Context) error { return j.node.Run(ctx, j.asNode) })
	ps.start("proxy certificate", func(ctx context.Context) error { return j.proxy.Run(ctx, j.asNode) })
	ps.start("kubelet certificate", func(ctx context.Context) error { return j.serving.Run(ctx, j.asNode) })
}
