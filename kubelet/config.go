package kubelet

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	internalapi "k8s.io/cri-api/pkg/apis"

	"github.com/peapod/peapod/kubelet/admit"
	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/node"
	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/static"
)

// DevicePlugins have devices; Pods get them, the node says how many there are.
type DevicePlugins interface {
	pod.DevicePlugins
	node.Devices
	// Has says whether they have those of a resource.
	Has(name v1.ResourceName) bool
}

// Config is all that a Kubelet is made from. What is not called optional is
// required.
type Config struct {
	// NodeName is the name of this node's object; lower case DNS.
	NodeName string
	// NodeIPs are the node's addresses, primary first.
	NodeIPs []string
	// NodeLabels, NodeAnnotations and NodeTaints are registered; optional.
	NodeLabels, NodeAnnotations map[string]string
	NodeTaints                  []v1.Taint
	// PodCIDRs become the node's at registration; optional: without them
	// somebody else assigns them.
	PodCIDRs []string
	// KubeletPort is where the kubelet's server listens; it is only told on.
	KubeletPort int32
	// Client speaks to the API server as this node.
	Client kubernetes.Interface
	// Runtime and Images are the container runtime: embedded or behind gRPC.
	Runtime internalapi.RuntimeService
	Images  internalapi.ImageManagerService
	// Volumes mounts what Pods declare.
	Volumes pod.Volumes
	// Devices makes ready what Pods claim.
	Devices pod.Devices
	// Plugins have devices of which Pods ask for a number.
	Plugins DevicePlugins
	// Attached are the volumes that others attach to the node; optional.
	Attached node.Volumes
	// Network is told which addresses Pods have; optional.
	Network pod.Network
	// Pressure reports shortages and is told of nothing else; optional.
	Pressure node.Pressure
	// Gate is asked before each Pod's own fit is checked, such as eviction,
	// which keeps Pods off a node that is short of something; optional.
	Gate pod.Gate
	// Sysctls are those that Pods may set; nil: the safe ones.
	Sysctls *admit.Sysctls
	// StaticPods is the directory, or the file, that static Pods are written in;
	// absolute. Empty: there are none.
	StaticPods string
	// PodFormat is how they are written; required with StaticPods.
	PodFormat static.Format
	// Metrics count what the kubelet does; optional.
	Metrics *metrics.Set
	// RootDir holds <RootDir>/pods/<uid>; on disk.
	RootDir string
	// LogDir holds the containers' logs, <namespace>_<name>_<uid> each Pod.
	LogDir string
	// CgroupRoot is the cgroup below which Pods live, "/<instance>".
	CgroupRoot string
	// ClusterDNS are the addresses of the cluster's DNS; optional: without
	// them Pods get the host's.
	ClusterDNS []string
	// ClusterDomain is the DNS domain of the cluster; empty means cluster.local.
	ClusterDomain string
	// ResolvConf is the host's resolver configuration; empty means
	// /etc/resolv.conf, or systemd-resolved's when that only names loopback.
	ResolvConf string
	// Reserved is kept from Pods; optional.
	Reserved v1.ResourceList
	// MaxPods is how many Pods the node takes; 0 means 110.
	MaxPods int64
	// ParallelPulls is how many images are pulled at once; 0 means no limit.
	ParallelPulls int
	// UnconfinedSeccomp leaves containers that name no seccomp profile without
	// one.
	UnconfinedSeccomp bool
	// SeccompProfileRoot is the directory that Localhost profiles are below;
	// empty means seccomp below RootDir.
	SeccompProfileRoot string
	// LogMaxSize (bytes; 0 means 10 Mi) and LogMaxFiles (0 means 5) bound the
	// logs of a container.
	LogMaxSize  int64
	LogMaxFiles int
}

func (c *Config) validate() error {
	var errs []error
	need := func(ok bool, what string) {
		if !ok {
			errs = append(errs, fmt.Errorf("%s is required", what))
		}
	}
	need(c.NodeName != "", "NodeName")
	need(len(c.NodeIPs) > 0, "NodeIPs")
	need(c.Client != nil, "Client")
	need(c.Runtime != nil && c.Images != nil, "Runtime and Images")
	need(c.Volumes != nil, "Volumes")
	need(c.Devices != nil, "Devices")
	need(c.Plugins != nil, "Plugins")
	need(filepath.IsAbs(c.RootDir), "an absolute RootDir")
	need(filepath.IsAbs(c.LogDir), "an absolute LogDir")
	need(c.CgroupRoot != "", "CgroupRoot")
	need(c.StaticPods == "" || (filepath.IsAbs(c.StaticPods) && c.PodFormat != nil), "an absolute path as StaticPods, with PodFormat,")
	for _, list := range [][]string{c.NodeIPs, c.ClusterDNS} {
		for _, ip := range list {
			if _, err := netip.ParseAddr(ip); err != nil {
				errs = append(errs, err)
			}
		}
	}
	if c.ClusterDomain == "" {
		c.ClusterDomain = "cluster.local"
	}
	if c.LogMaxSize == 0 {
		c.LogMaxSize = 10 << 20
	}
	if c.LogMaxFiles == 0 {
		c.LogMaxFiles = 5
	}
	if len(errs) > 0 {
		return fmt.Errorf("configure kubelet: %w", errors.Join(errs...))
	}
	return nil
}
