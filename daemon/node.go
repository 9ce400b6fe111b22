package daemon

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
	certutil "k8s.io/client-go/util/cert"
	internalapi "k8s.io/cri-api/pkg/apis"
	registerapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"

	manifest "github.com/peapod/peapod/api/core/pod"
	"github.com/peapod/peapod/api/validation"
	"github.com/peapod/peapod/daemon/instance"
	"github.com/peapod/peapod/daemon/join"
	"github.com/peapod/peapod/internal/atomicfile"
	"github.com/peapod/peapod/internal/cidrs"
	"github.com/peapod/peapod/internal/localpath"
	"github.com/peapod/peapod/kubelet"
	"github.com/peapod/peapod/kubelet/csi"
	"github.com/peapod/peapod/kubelet/device"
	"github.com/peapod/peapod/kubelet/dra"
	"github.com/peapod/peapod/kubelet/evict"
	"github.com/peapod/peapod/kubelet/imagegc"
	localvolumes "github.com/peapod/peapod/kubelet/localpath"
	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/plugin"
	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/podresources"
	"github.com/peapod/peapod/kubelet/server"
	"github.com/peapod/peapod/kubelet/stats"
	"github.com/peapod/peapod/kubelet/volume"
)

// node is this machine as a node of the cluster.
type node struct {
	volumes *volume.Manager
	csi     *csi.Plugin
	devices *dra.Manager
	plugged *device.Manager
	plugins *plugin.Watcher
	local   *localvolumes.Keeper
	kubelet *kubelet.Kubelet
	stats   *stats.Provider
	images  *imagegc.Collector
	evict   *evict.Manager
	server  *server.Server
	holders *podresources.Server
	// What the kubelet does is counted, also what it asks the container runtime for.
	metrics       *metrics.Set
	runtime       internalapi.RuntimeService
	runtimeImages internalapi.ImageManagerService
	// certified is closed when the server has its certificate; nil: it has.
	certified <-chan struct{}
}

// pluginsDir is where plugins of the kubelet make the sockets that they register at.
func pluginsDir(i instance.Instance) string { return filepath.Join(kubeletDir(i), "plugins_registry") }

// volumesDir is where the node has the volumes that the built-in provisioner puts on it.
func volumesDir(i instance.Instance) string { return filepath.Join(i.DataDir, "volumes") }

// kubeletPort is upstream's.
const kubeletPort = 10250

// portFile has the kubelet's port of the last start, where it was not the usual one.
func portFile(i instance.Instance) string { return filepath.Join(i.DataDir, "kubelet-port") }

// lastPort returns the kubelet's port of the last start if that was not the usual one, and else zero.
func lastPort(i instance.Instance) (int, error) {
	b, err := os.ReadFile(portFile(i))
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read the kubelet's port: %w", err)
	}
	port, err := strconv.Atoi(strings.TrimSpace(string(b)))
	if err != nil {
		return 0, fmt.Errorf("read the kubelet's port in %s: %w; remove the file", portFile(i), err)
	}
	return port, nil
}

// listenKubelet opens the kubelet's port: the one asked for. With none asked for it is that of the last start, so that the Node says from
// the beginning where the kubelet is, or the usual one, or any that is free. It is on all addresses where the API is, else on the
// node's, at which the API server looks for it.
func listenKubelet(i instance.Instance, s settled) (net.Listener, error) {
	host := s.host()
	if !s.bind.IsUnspecified() {
		host = s.nodeIP()
	}
	ports := []int{s.KubeletPort}
	if s.KubeletPort == 0 {
		last, err := lastPort(i)
		if err != nil {
			return nil, err
		}
		ports = []int{kubeletPort, 0}
		if last != 0 {
			ports = []int{last, kubeletPort, 0}
		}
	}
	var l *net.TCPListener
	var err error
	for _, port := range ports {
		if l, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(netip.AddrPortFrom(host, uint16(port)))); !errors.Is(err, unix.EADDRINUSE) {
			break
		}
	}
	if err != nil {
		return nil, fmt.Errorf("serve the kubelet: %w; free the port or choose another with --kubelet-port", err)
	}
	if port := l.Addr().(*net.TCPAddr).Port; s.KubeletPort == 0 && port != kubeletPort && port != ports[0] {
		if err := rememberPort(i, port); err != nil {
			l.Close()
			return nil, err
		}
	}
	return l, nil
}

func rememberPort(i instance.Instance, port int) error {
	if err := atomicfile.Write(portFile(i), []byte(strconv.Itoa(port)+"\n"), 0o600); err != nil {
		return fmt.Errorf("remember the kubelet's port: %w", err)
	}
	return nil
}

// nodeUser is who the node is to the API server, in the group user.NodesGroup.
func nodeUser(name string) string { return "system:node:" + name }

// membership is what makes a machine a node of a cluster: how it speaks to the API server, and by what it is known.
type membership struct {
	// client acts as the node, and so as no other.
	client kubernetes.Interface
	// serving is the certificate of the kubelet's server; clientCA signs what its clients show.
	serving  dynamiccertificates.CertKeyContentProvider
	clientCA dynamiccertificates.CAContentProvider
	// certified is closed when serving has a certificate; nil: it has one.
	certified <-chan struct{}
	// pods are the addresses of this node's Pods.
	pods cidrs.List
	// service are the addresses of Services; domain is the DNS domain of the cluster.
	service cidrs.List
	domain  string
	// listener is the kubelet's.
	listener net.Listener
	// network holds Pods to network policies.
	network pod.Network
	// client and serving certificate of an agent, which are renewed; nil for a server, whose own node shows none.
	own, ownServing *join.Credential
}

// certificates tells of those that the kubelet shows.
func (m *membership) certificates() stats.Certificates {
	serving := m.serving
	c := stats.Certificates{Server: func() *x509.Certificate {
		cert, _ := serving.CurrentCertKeyContent()
		all, err := certutil.ParseCertsPEM(cert)
		if err != nil {
			return nil
		}
		return all[0]
	}}
	if m.own != nil {
		c.Client, c.ClientFailures, c.ServerFailures = m.own.Leaf, m.own.Failures, m.ownServing.Failures
	}
	return c
}

// membership is the server's own node's: it is in the same process.
func (c *control) membership(s settled, listener net.Listener, pods cidrs.List) (membership, error) {
	client, err := c.watcherFor(asUser(nodeUser(s.NodeName), user.NodesGroup))
	return membership{client: client, serving: c.keys.KubeletServer(), clientCA: c.keys.ClientCA(), pods: pods,
		service: c.ranges.Service, domain: clusterDomain, listener: listener}, err
}

// newNode composes the kubelet, its volumes and its server.
func newNode(i instance.Instance, s settled, e *containers, m membership) (*node, error) {
	n := &node{certified: m.certified, metrics: metrics.New()}
	client, ips := m.client, textsOf(s.nodeIPs)
	n.runtime, n.runtimeImages = n.metrics.Runtime(e.service), n.metrics.Images(e.images)
	root := kubeletDir(i)
	n.csi = csi.New(csi.Config{Client: client, Metrics: n.metrics, NodeName: s.NodeName, RootDir: root, Kick: func() { n.kubelet.Node().Kick() }})
	n.devices = dra.New(dra.Config{Client: client, NodeName: s.NodeName, RootDir: root, Node: func() (*corev1.Node, error) { return n.kubelet.Node().Get() },
		Changed: func(pod types.UID) { n.kubelet.Wake(pod) }})
	n.plugged = device.New(device.Config{RootDir: root, Extended: validation.IsExtended, Metrics: n.metrics,
		Counted: func() { n.kubelet.Node().Kick() }, Changed: func(pod types.UID) { n.kubelet.Wake(pod) }})
	n.plugins = plugin.New(pluginsDir(i), map[string]plugin.Handler{
		registerapi.CSIPlugin: n.csi, registerapi.DRAPlugin: n.devices, registerapi.DevicePlugin: n.plugged.Registry()})
	n.volumes = volume.New(volume.Config{
		Client: client, RootDir: root, CSI: n.csi, Metrics: n.metrics,
		Provide:     func(ctx context.Context, v *corev1.PersistentVolume) error { return n.local.Provide(ctx, v) },
		Allocatable: func() resourceList { return n.kubelet.Node().Allocatable() },
		HostIPs:     func() []string { return ips },
		Event: func(about runtime.Object, kind, reason, message string) {
			n.kubelet.Recorder().Event(about, kind, reason, message)
		},
		NodeName: s.NodeName,
		Node:     func() (*corev1.Node, error) { return n.kubelet.Node().Get() },
		PodIPs: func(uid types.UID) []string {
			p, ok := n.kubelet.Pods().PodByUID(uid)
			if !ok {
				return nil
			}
			ips := make([]string, len(p.Status.PodIPs))
			for i := range ips {
				ips[i] = p.Status.PodIPs[i].IP
			}
			return ips
		},
	})
	n.holders = podresources.New(podresources.Config{
		Socket: filepath.Join(root, "pod-resources", "kubelet.sock"), Pods: func() []*corev1.Pod { return n.kubelet.Pods().Pods() },
		Claims: n.devices.Resources, Devices: n.plugged.Devices, Allocatable: n.plugged.Allocatable, Metrics: n.metrics,
	})
	if err := n.newCare(i, s, m.certificates()); err != nil {
		return nil, err
	}
	port := int32(m.listener.Addr().(*net.TCPAddr).Port)
	var err error
	n.kubelet, err = kubelet.New(kubelet.Config{
		NodeAnnotations: map[string]string{localpath.DirectoryAnnotation: volumesDir(i)},
		NodeName:        s.NodeName, NodeIPs: ips, PodCIDRs: m.pods.Strings(),
		KubeletPort: port, Pressure: n.evict, Gate: n.evict, Sysctls: s.sysctls,
		Client: client, Runtime: n.runtime, Images: n.runtimeImages, Metrics: n.metrics, Volumes: n.volumes, Attached: n.csi, Devices: n.devices, Plugins: n.plugged, Network: m.network,
		StaticPods: s.PodManifestPath, PodFormat: manifest.NewManifest(),
		NodeLabels: s.NodeLabels, NodeTaints: s.taints, MaxPods: int64(s.MaxPods), Reserved: s.reserved, ResolvConf: s.ResolvConf,
		LogMaxSize: s.logMaxSize, LogMaxFiles: int(s.ContainerLogMaxFiles), ParallelPulls: int(s.MaxParallelImagePulls), UnconfinedSeccomp: !s.SeccompDefault,
		RootDir: root, LogDir: logDir(i), CgroupRoot: cgroupRoot(i), ClusterDomain: m.domain,
		ClusterDNS: []string{dnsAddress(m.service).String()}, SeccompProfileRoot: i.SeccompProfiles(),
	})
	if err != nil {
		return nil, fmt.Errorf("make kubelet: %w", err)
	}
	n.local = localvolumes.New(localvolumes.Config{Client: client, NodeName: s.NodeName, Dir: volumesDir(i), Recorder: n.kubelet.Recorder()})
	who, may, err := server.Access(client, m.clientCA)
	if err != nil {
		return nil, err
	}
	n.server = server.New(server.Config{
		Listener: m.listener, ServingCert: m.serving, ClientCA: m.clientCA, Authenticator: who, Authorizer: may,
		NodeName: s.NodeName, Pods: n.kubelet.Pods(), Runtime: n.runtime, Metrics: n.metrics, Streams: e.service.StreamHandler(),
		Stats: n.stats, Settings: func() any { return n.settings(s, port) },
	})
	return n, nil
}

// serve is the kubelet's server, as soon as it has a certificate. Connections wait until then.
func (n *node) serve(ctx context.Context) error {
	if n.certified != nil {
		select {
		case <-n.certified:
		case <-ctx.Done():
			return nil
		}
	}
	return n.server.Run(ctx)
}

// findPlugins registers plugins, once there is a Node that they are plugins of.
func (n *node) findPlugins(ctx context.Context) error {
	select {
	case <-n.kubelet.Node().Registered():
	case <-ctx.Done():
		return nil
	}
	n.csi.Announce()
	n.devices.Open()
	defer n.devices.Close()
	return n.plugins.Run(ctx)
}

// run is the node until ctx ends; containers stay.
func (n *node) run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var parts sync.WaitGroup
	all := []func(context.Context) error{n.volumes.Run, n.csi.Run, n.findPlugins, n.plugged.Run, n.local.Run, n.kubelet.Run, n.serve, n.evict.Run, n.images.Run, n.holders.Run}
	errs := make([]error, len(all))
	for i, run := range all {
		parts.Go(func() {
			defer cancel()
			errs[i] = run(ctx)
		})
	}
	parts.Wait()
	return errors.Join(errs...)
}
