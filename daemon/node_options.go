package daemon

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation"
	cliflag "k8s.io/component-base/cli/flag"

	"github.com/peapod/peapod/kubelet/admit"
	"github.com/peapod/peapod/kubelet/evict"
	"github.com/peapod/peapod/kubelet/imagegc"
	"github.com/peapod/peapod/runtime/cri"
)

// NodeOptions are what a user may set of this machine's node, of a server as of an agent.
type NodeOptions struct {
	// KubeletPort is where this node's kubelet is served; zero takes 10250, or a free one if that is taken. Clients learn
	// the port from the Node object.
	KubeletPort int `json:"kubeletPort,omitempty"`
	// NodeName names this machine's node: the host name in lower case by default.
	NodeName string `json:"nodeName,omitempty"`
	// NodeIP is this machine's address for other nodes and for Pods: the default route's source address by default. With a comma, one
	// of each IP family, of which the first carries what nodes send each other. Only families that the cluster has.
	NodeIP string `json:"nodeIP,omitempty"`
	// EvictionHard are the shortages at which the node ends Pods: by signal a quantity or a percentage, in place of all
	// defaults. EvictionSoft are those at which it does so when they have lasted EvictionSoftGracePeriod, and then gives Pods the
	// time that they ask for, but at most EvictionMaxPodGracePeriod seconds; negative: all of it. EvictionMinimumReclaim is how
	// much more than the shortage must be left before no more Pods end. A shortage is told of until it has been over for
	// EvictionPressureTransitionPeriod. They are a kubelet's.
	EvictionHard                     map[string]string `json:"evictionHard,omitempty"`
	EvictionSoft                     map[string]string `json:"evictionSoft,omitempty"`
	EvictionSoftGracePeriod          map[string]string `json:"evictionSoftGracePeriod,omitempty"`
	EvictionMaxPodGracePeriod        int32             `json:"evictionMaxPodGracePeriod,omitempty"`
	EvictionMinimumReclaim           map[string]string `json:"evictionMinimumReclaim,omitempty"`
	EvictionPressureTransitionPeriod metav1.Duration   `json:"evictionPressureTransitionPeriod,omitzero"`
	// ImageGCHighThreshold and ImageGCLowThreshold are how full in percent the images' file system gets before
	// unused images go, and to which they bring it; 100 never removes one. They are a kubelet's.
	ImageGCHighThreshold int64 `json:"imageGCHighThresholdPercent,omitempty"`
	ImageGCLowThreshold  int64 `json:"imageGCLowThresholdPercent,omitempty"`
	KubeletOptions
	// InsecureRegistries are image registries (host or host:port) that are spoken to over plain HTTP. Those on loopback
	// always may be.
	InsecureRegistries []string `json:"insecureRegistries,omitempty"`
	// PodManifestPath is a directory of Pods that the node runs without the API, one a file; or one such file. It is a kubelet's.
	PodManifestPath string `json:"podManifestPath,omitempty"`
	// AllowedUnsafeSysctls are kernel settings that Pods may have beyond the safe ones: names, or beginnings of names
	// before a *. They are a kubelet's.
	AllowedUnsafeSysctls []string `json:"allowedUnsafeSysctls,omitempty"`
	// CDISpecDirs are the directories with what devices are (Container Device Interface), for the container runtime. They are
	// containerd's cdi_spec_dirs.
	CDISpecDirs []string `json:"cdiSpecDirs,omitempty"`
}

func defaultNodeOptions() NodeOptions {
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	return NodeOptions{
		NodeName: strings.ToLower(name), EvictionPressureTransitionPeriod: metav1.Duration{Duration: evict.DefaultTransition},
		ImageGCHighThreshold: imagegc.DefaultHighPercent, ImageGCLowThreshold: imagegc.DefaultLowPercent, CDISpecDirs: cri.DefaultCDISpecDirs(),
		KubeletOptions: defaultKubeletOptions(),
	}
}

// AddFlags adds a flag for each option.
func (o *NodeOptions) AddFlags(f *pflag.FlagSet) {
	f.IntVar(&o.KubeletPort, "kubelet-port", o.KubeletPort, "port to serve this node's kubelet on; 0 takes 10250, or a free one if that is taken")
	f.StringVar(&o.NodeName, "node-name", o.NodeName, "name of this machine's node")
	f.StringVar(&o.NodeIP, "node-ip", o.NodeIP, "address of this machine's node, with a comma one of each IP family that Pods have (default: those that the default routes use)")
	f.Var(cliflag.NewLangleSeparatedMapStringString(&o.EvictionHard), "eviction-hard",
		"shortages at which the node ends Pods, in place of all defaults, such as `memory.available<100Mi`,nodefs.available<5%; 0% turns one off (default "+defaultEviction()+")")
	f.Var(cliflag.NewLangleSeparatedMapStringString(&o.EvictionSoft), "eviction-soft",
		"shortages at which the node ends Pods when they have lasted the grace period of their signal, such as `memory.available<300Mi`")
	f.Var(cliflag.NewMapStringString(&o.EvictionSoftGracePeriod), "eviction-soft-grace-period", "how long the shortages of --eviction-soft must last, such as `memory.available=1m30s`; each needs one")
	f.Int32Var(&o.EvictionMaxPodGracePeriod, "eviction-max-pod-grace-period", o.EvictionMaxPodGracePeriod, "most seconds that Pods get to end which end for --eviction-soft; negative: as many as they ask for")
	f.Var(cliflag.NewMapStringString(&o.EvictionMinimumReclaim), "eviction-minimum-reclaim", "how much more than the shortage must be left before no more Pods end, such as `nodefs.available=2Gi`")
	f.DurationVar(&o.EvictionPressureTransitionPeriod.Duration, "eviction-pressure-transition-period", o.EvictionPressureTransitionPeriod.Duration, "how long a shortage must have been over before the node no longer tells of it")
	f.Int64Var(&o.ImageGCHighThreshold, "image-gc-high-threshold", o.ImageGCHighThreshold, "how full the disk gets, in percent, before unused images are removed; 100 never removes one")
	f.Int64Var(&o.ImageGCLowThreshold, "image-gc-low-threshold", o.ImageGCLowThreshold, "how full in percent that leaves the disk")
	o.KubeletOptions.AddFlags(f)
	f.StringSliceVar(&o.InsecureRegistries, "insecure-registries", o.InsecureRegistries, "image registries (host or host:port) spoken to over plain HTTP, comma separated; those on loopback always may be")
	f.StringVar(&o.PodManifestPath, "pod-manifest-path", o.PodManifestPath, "directory of static Pods, which the node runs without the API: a file each, in YAML or JSON; or one such file")
	f.StringSliceVar(&o.AllowedUnsafeSysctls, "allowed-unsafe-sysctls", o.AllowedUnsafeSysctls, "kernel settings that Pods of this node may have beyond the safe ones, comma separated; a name may end in *")
	f.StringSliceVar(&o.CDISpecDirs, "cdi-spec-dirs", o.CDISpecDirs, "directories with the specifications of devices (Container Device Interface), comma separated; of two for one device the later directory's counts")
}

// defaultEviction is the default as the flag has it.
func defaultEviction() string {
	var parts []string
	for _, t := range evict.DefaultThresholds() {
		parts = append(parts, string(t.Signal)+"<"+t.String())
	}
	return strings.Join(parts, ",")
}

// settledNode are options of a node that have been checked and parsed.
type settledNode struct {
	settledKubelet
	nodeIPs []netip.Addr // the node's own first; empty: find them (settleNodeIPs)
	evict   []evict.Threshold
	sysctls *admit.Sysctls
}

// settle checks every option. Thresholds are the defaults where the user gave none.
func (o *NodeOptions) settle() (n settledNode, err error) {
	if o.KubeletPort < 0 || o.KubeletPort > 65535 {
		return n, fmt.Errorf("--kubelet-port %d: must be between 0 and 65535", o.KubeletPort)
	}
	if msgs := validation.IsDNS1123Subdomain(o.NodeName); len(msgs) > 0 {
		return n, fmt.Errorf("--node-name %q: %s", o.NodeName, strings.Join(msgs, "; "))
	}
	if n.nodeIPs, err = parseNodeIPs(o.NodeIP); err != nil {
		return n, err
	}
	if low, high := o.ImageGCLowThreshold, o.ImageGCHighThreshold; low < 0 || low >= high || high > 100 {
		return n, fmt.Errorf("--image-gc-low-threshold %d, --image-gc-high-threshold %d: the first must be less than the second, and both between 0 and 100", low, high)
	}
	if n.evict, err = evict.ParseThresholds(evict.Settings{
		Hard: o.EvictionHard, Soft: o.EvictionSoft, SoftGrace: o.EvictionSoftGracePeriod, MinimumReclaim: o.EvictionMinimumReclaim,
	}); err != nil {
		return n, err
	}
	if d := o.EvictionPressureTransitionPeriod.Duration; d < 0 {
		return n, fmt.Errorf("--eviction-pressure-transition-period %v: must not be negative", d)
	}
	if p := o.PodManifestPath; p != "" && !filepath.IsAbs(p) {
		return n, fmt.Errorf("--pod-manifest-path %q: must be an absolute path, such as /etc/kubernetes/manifests", p)
	}
	if n.settledKubelet, err = o.KubeletOptions.settle(); err != nil {
		return n, err
	}
	if n.sysctls, err = admit.NewSysctls(o.AllowedUnsafeSysctls); err != nil {
		return n, fmt.Errorf("--allowed-unsafe-sysctls: %w", err)
	}
	for _, dir := range o.CDISpecDirs {
		if !filepath.IsAbs(dir) {
			return n, fmt.Errorf("--cdi-spec-dirs %q: must be absolute paths of directories", dir)
		}
	}
	return n, nil
}
