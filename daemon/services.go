package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sync/errgroup"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/record"

	"github.com/peapod/peapod/controllers/kubernetesservice"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/dns"
	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/internal/refusedports"
	"github.com/peapod/peapod/network/policy"
	"github.com/peapod/peapod/network/proxy"
)

// apiServiceIP is the cluster IP of Service kubernetes: the first of the range.
func apiServiceIP(service cidrs.List) netip.Addr { return service.First().Addr().Next() }

// dnsAddress is the cluster IP of the cluster's DNS: the tenth of the range, as upstream's.
func dnsAddress(service cidrs.List) netip.Addr {
	a := service.First().Addr()
	for range 10 {
		a = a.Next()
	}
	return a
}

// serviceTable is the nftables table of the instance's service proxy.
func serviceTable(i instance.Instance) string { return "peapod_" + i.Name + "_services" }

// policyTable is the nftables table of the instance's network policies.
func policyTable(i instance.Instance) string { return "peapod_" + i.Name + "_policies" }

// nodeServices is what makes Services work on a node, and holds its Pods to network policies.
type nodeServices struct {
	proxy    *proxy.Proxy
	dns      *dns.Server
	policies *policy.Enforcer
	// events takes what the proxy has to say to the API, as client.
	events record.EventBroadcaster
	client kubernetes.Interface
}

// serviceConfig says which node of which cluster that is.
type serviceConfig struct {
	nodeName string
	nodeIPs  []netip.Addr
	// domain is the cluster's in DNS; service, cluster and pods are the addresses of Services, of all Pods and of this
	// node's.
	domain                 string
	service, cluster, pods cidrs.List
	// resolvConf lists the resolvers for other names than the cluster's; empty: the machine's.
	resolvConf string
	// reserved are ports of the node that no Service may take from it.
	reserved []uint16
	// client acts as the proxy, to record events; asNode as the node.
	client, asNode kubernetes.Interface
	// informers are started by their owner, after newNodeServices.
	informers informers.SharedInformerFactory
	// all gives all Pods and Namespaces, once there are network policies.
	all func(context.Context) policy.Cluster
}

func newNodeServices(i instance.Instance, c serviceConfig) (*nodeServices, error) {
	n := &nodeServices{events: record.NewBroadcaster(), client: c.client}
	var err error
	n.proxy, err = proxy.New(proxy.Config{
		Table: serviceTable(i), NodeName: c.nodeName, NodeIPs: c.nodeIPs,
		Networks: proxy.Networks{Service: c.service, Pods: c.pods, AllPods: c.cluster},
		Own:      []netip.Addr{dnsAddress(c.service)}, Reserved: c.reserved, Informers: c.informers,
		Report: func(ctx context.Context, refused string) error {
			return annotateNode(ctx, c.asNode, c.nodeName, refusedports.Annotation, refused)
		},
		Recorder: n.events.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "kube-proxy", Host: c.nodeName}),
	})
	if err != nil {
		return nil, fmt.Errorf("make service proxy: %w", err)
	}
	clients := slices.Clone(c.cluster)
	for _, ip := range c.nodeIPs {
		clients = append(clients, netip.PrefixFrom(ip, ip.BitLen()))
	}
	n.dns, err = dns.New(dns.Config{
		Address: dnsAddress(c.service), Port: 53, Domain: c.domain, ResolvConf: c.resolvConf, Informers: c.informers,
		Clients: clients,
	})
	if err != nil {
		return nil, fmt.Errorf("make cluster DNS: %w", err)
	}
	n.policies, err = policy.New(policy.Config{
		Table: policyTable(i), NodeName: c.nodeName, Pods: c.pods, Informers: c.informers, Cluster: c.all,
	})
	if err != nil {
		return nil, fmt.Errorf("make network policies: %w", err)
	}
	return n, nil
}

// annotateNode gives a Node an annotation, or takes it away if the value is empty. A Node that is gone needs none.
func annotateNode(ctx context.Context, client kubernetes.Interface, name, key, value string) error {
	annotations := map[string]any{key: value}
	if value == "" {
		annotations[key] = nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"annotations": annotations}})
	if err != nil {
		return err
	}
	_, err = client.CoreV1().Nodes().Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("annotate node %s: %w", name, err)
	}
	return nil
}

// run leads connections, answers names and enforces policies until ctx ends. Rules stay.
func (n *nodeServices) run(ctx context.Context) error {
	n.events.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: n.client.CoreV1().Events("")})
	defer n.events.Shutdown()
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { return n.proxy.Run(ctx) })
	group.Go(func() error { return n.dns.Run(ctx) })
	group.Go(func() error { return n.policies.Run(ctx) })
	return group.Wait()
}

// uninstallServices removes what nodeServices of an instance ever made on this machine.
func uninstallServices(i instance.Instance, service cidrs.List) error {
	return errors.Join(policy.Uninstall(policyTable(i)), proxy.Uninstall(serviceTable(i), service), dns.Uninstall(dnsAddress(service)))
}

// newOwnServices returns the part that leads the cluster's own Services to its servers.
func newOwnServices(s settled, c *control, k keyed) (func(context.Context) error, error) {
	api := s.nodeIPOf(k.ranges.Service.First().Addr().Is6())
	if !s.bind.IsUnspecified() && !s.bind.IsLoopback() {
		api = s.bind
	}
	config := kubernetesservice.Config{
		Client: c.system, Informers: c.informers, API: netip.AddrPortFrom(api, uint16(s.Port)),
		ServiceIP: apiServiceIP(k.ranges.Service), DNS: dnsAddress(k.ranges.Service),
	}
	if k.claims != nil {
		config.Server = s.NodeName
	}
	keeper, err := kubernetesservice.New(config)
	if err != nil {
		return nil, fmt.Errorf("make the cluster's own services: %w", err)
	}
	return keeper.Run, nil
}

// newServerServices returns what makes Services work on a server's own node, whose Pods have the addresses pods.
func newServerServices(i instance.Instance, s settled, c *control, k keyed, pods cidrs.List) (*nodeServices, error) {
	client, _, err := c.clientFor(asUser(user.KubeProxy))
	if err != nil {
		return nil, err
	}
	asNode, _, err := c.clientFor(asUser(nodeUser(s.NodeName), user.NodesGroup))
	if err != nil {
		return nil, err
	}
	// The one server of a cluster has all Pods in memory for its scheduler; among several, whoever leads.
	all := policy.Shared(c.informers)
	if c.claims != nil {
		all = policy.Own(client)
	}
	return newNodeServices(i, serviceConfig{
		client: client, all: all, asNode: asNode, nodeName: s.NodeName, nodeIPs: s.nodeIPs, domain: clusterDomain,
		service: k.ranges.Service, cluster: k.ranges.Cluster, pods: pods,
		reserved: []uint16{uint16(s.Port), uint16(k.kubeletListener.Addr().(*net.TCPAddr).Port)}, informers: c.informers, resolvConf: s.ResolvConf,
	})
}
