// Package kubelet runs the Pods that the API server binds to this node. It
// wires the parts; each of them is a package below this one. It speaks client-go
// and CRI and knows neither the API server's nor the runtime's insides.
package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/version"
	"github.com/peapod/peapod/kubelet/admit"
	"github.com/peapod/peapod/kubelet/cgroup"
	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/image"
	"github.com/peapod/peapod/kubelet/logrotate"
	"github.com/peapod/peapod/kubelet/node"
	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/probe"
	"github.com/peapod/peapod/kubelet/static"
	podstatus "github.com/peapod/peapod/kubelet/status"
	"github.com/peapod/peapod/kubelet/userns"
)

const (
	// statusWriters is how many statuses of Pods are written at once.
	statusWriters = 16
	// logCheck is how often the sizes of logs are looked at, as often as upstream's kubelet does.
	logCheck = 10 * time.Second
)

// Kubelet is everything of one node.
type Kubelet struct {
	cfg         Config
	memory      int64
	broadcaster record.EventBroadcaster
	recorder    record.EventRecorder
	node        *node.Node
	cgroups     *cgroup.Tree
	userns      *userns.Ranges
	status      *podstatus.Writer
	mirrors     *static.Mirrors
	source      *static.Source // nil: no static Pods
	prober      *probe.Prober
	rotator     *logrotate.Rotator
	pods        *pod.Manager

	podInformer informers.SharedInformerFactory
	seen        cache.DoneChecker               // its first list was taken in
	informers   informers.SharedInformerFactory // services
	nodes       informers.SharedInformerFactory // this node
}

// New makes a Kubelet; nothing is read from or written to the API or the
// runtime before Run.
func New(cfg Config) (*Kubelet, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	k := &Kubelet{cfg: cfg}
	var err error
	if k.memory, err = node.MemoryCapacity(); err != nil {
		return nil, err
	}
	k.broadcaster = record.NewBroadcaster()
	k.recorder = k.broadcaster.NewRecorder(scheme.Scheme, v1.EventSource{Component: "kubelet", Host: cfg.NodeName})
	k.node, err = node.New(node.Config{
		Name: cfg.NodeName, Client: cfg.Client, Runtime: cfg.Runtime, Images: cfg.Images, Recorder: k.recorder,
		IPs: cfg.NodeIPs, Labels: cfg.NodeLabels, Annotations: cfg.NodeAnnotations, Taints: cfg.NodeTaints, PodCIDRs: cfg.PodCIDRs, Port: cfg.KubeletPort,
		RootDir: cfg.RootDir, MaxPods: cfg.MaxPods, Reserved: cfg.Reserved, Pressure: cfg.Pressure, Volumes: cfg.Attached, Devices: cfg.Plugins,
		Version: version.Info().GitVersion,
	})
	if err != nil {
		return nil, err
	}
	if k.cgroups, err = cgroup.New(cfg.CgroupRoot, k.node.CPUMilli()); err != nil {
		return nil, err
	}
	own := fields.OneTermEqualSelector("spec.nodeName", cfg.NodeName).String()
	k.podInformer = informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = own }))
	self := fields.OneTermEqualSelector(metav1.ObjectNameField, cfg.NodeName).String()
	k.nodes = informers.NewSharedInformerFactoryWithOptions(cfg.Client, 0, informers.WithTweakListOptions(func(o *metav1.ListOptions) { o.FieldSelector = self }))
	k.informers = informers.NewSharedInformerFactory(cfg.Client, 0)
	return k, k.wire()
}

// wire makes the parts that need each other.
func (k *Kubelet) wire() error {
	cfg := &k.cfg
	objects := &objects{client: cfg.Client, services: k.informers.Core().V1().Services().Lister()}
	checker := &probe.Checker{Runtime: cfg.Runtime}
	k.status = podstatus.New(cfg.Client, statusWriters, cfg.Metrics)
	k.newStatic()
	k.userns = userns.New(userns.Config{Dir: filepath.Join(cfg.RootDir, "userns"), Runtime: cfg.Runtime, MaxPods: k.node.MaxPods()})
	k.prober = probe.New(probe.Config{Checker: checker, Record: k.recordContainer, Metrics: cfg.Metrics})
	var err error
	k.pods, err = pod.NewManager(pod.Config{
		Runtime: cfg.Runtime, HostIPs: cfg.NodeIPs, Volumes: cfg.Volumes, Cgroups: timedCgroups{k.cgroups, cfg.Metrics}, UserNS: k.userns, Devices: cfg.Devices, Plugins: cfg.Plugins, Network: cfg.Network, Objects: objects, RuntimeHandler: objects.RuntimeHandler,
		Images:   image.New(image.Config{Images: cfg.Images, Secrets: objects, Parallel: cfg.ParallelPulls, Metrics: cfg.Metrics}),
		Probes:   k.prober,
		Hooks:    checker,
		Status:   k.mirrors,
		Admitter: admit.Behind(cfg.Gate, admit.New(k.node.Expected, cfg.Sysctls, cfg.Plugins.Has)),
		Recorder: k.recorder, Node: k.describe, Allocatable: k.node.Allocatable,
		RootDir: cfg.RootDir, LogDir: cfg.LogDir, Metrics: cfg.Metrics,
	})
	if err != nil {
		return err
	}
	k.rotator = logrotate.New(logrotate.Config{
		Runtime: cfg.Runtime, MaxSize: cfg.LogMaxSize, MaxFiles: cfg.LogMaxFiles, Every: logCheck,
	})
	return nil
}

// Pods is read access to the Pods of this node.
func (k *Kubelet) Pods() pod.Lookup { return k.pods }

// Wake has a Pod looked at again, as something that its status tells of has changed.
func (k *Kubelet) Wake(uid types.UID) { k.pods.Wake(uid) }

// Evictor ends Pods for the node's sake.
func (k *Kubelet) Evictor() pod.Evictor { return k.pods }

// Recorder records events as this kubelet.
func (k *Kubelet) Recorder() record.EventRecorder { return k.recorder }

// Node is this node's object keeper.
func (k *Kubelet) Node() *node.Node { return k.node }

// Run works until ctx ends. Containers stay as they are when it returns, and
// the next Run takes them over.
func (k *Kubelet) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := k.prepare(ctx); err != nil {
		return err
	}
	if len(k.cfg.ClusterDNS) == 0 {
		klog.FromContext(ctx).Info("No cluster DNS is configured; Pods with dnsPolicy ClusterFirst get the host's")
	}
	k.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: k.cfg.Client.CoreV1().Events("")})
	defer k.broadcaster.Shutdown()
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	if err := k.watch(ctx); err != nil {
		return err
	}
	defer k.podInformer.Shutdown()
	defer k.informers.Shutdown()
	defer k.nodes.Shutdown()
	defer cancel()
	wg.Go(func() { k.status.Run(ctx) })
	wg.Go(func() { k.node.Run(ctx) })
	wg.Go(func() { k.prober.Run(ctx, k.pods.Wake) })
	wg.Go(func() { k.rotator.Run(ctx) })
	return k.runPods(ctx)
}

// prepare makes what all Pods share on the machine.
func (k *Kubelet) prepare(ctx context.Context) error {
	for dir, mode := range map[string]os.FileMode{k.cfg.RootDir: 0o750, k.cfg.LogDir: 0o755} {
		if err := os.MkdirAll(dir, mode); err != nil {
			return fmt.Errorf("make kubelet directory: %w", err)
		}
	}
	resp, err := k.cfg.Runtime.RuntimeConfig(ctx)
	switch {
	case status.Code(err) == codes.Unimplemented: // an old runtime: assume what we use
	case err != nil:
		return fmt.Errorf("ask the container runtime for its configuration: %w", err)
	case resp.GetLinux() != nil && resp.GetLinux().CgroupDriver != runtimeapi.CgroupDriver_CGROUPFS:
		return errors.New("start kubelet: the container runtime uses the systemd cgroup driver; set it to cgroupfs")
	}
	if err := k.userns.Open(); err != nil {
		return err
	}
	return k.cgroups.Open()
}

// watch starts the informers.
func (k *Kubelet) watch(ctx context.Context) error {
	pods := k.podInformer.Core().V1().Pods().Informer()
	events, err := pods.AddEventHandler(k.podEvents())
	if err != nil {
		return fmt.Errorf("watch pods: %w", err)
	}
	k.seen = events.HasSyncedChecker()
	nodes := k.nodes.Core().V1().Nodes().Informer()
	if _, err := nodes.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(o any) { k.node.Observe(o.(*v1.Node)) },
		UpdateFunc: func(old, o any) {
			was, is := old.(*v1.Node), o.(*v1.Node)
			k.node.Observe(is)
			if !apiequality.Semantic.DeepEqual(was.Status.Allocatable, is.Status.Allocatable) {
				k.pods.RoomChanged()
			}
		},
		DeleteFunc: func(o any) {
			if missed, ok := o.(cache.DeletedFinalStateUnknown); ok {
				o = missed.Obj
			}
			k.node.Gone(o.(*v1.Node))
		},
	}); err != nil {
		return fmt.Errorf("watch node: %w", err)
	}
	k.informers.Core().V1().Services().Informer()
	for _, f := range []informers.SharedInformerFactory{k.podInformer, k.informers, k.nodes} {
		f.Start(ctx.Done())
	}
	return nil
}

// describe says what of this node a new sandbox or container depends on.
func (k *Kubelet) describe() (*criconfig.Node, error) {
	resolv, err := k.resolv()
	if err != nil {
		return nil, err
	}
	return &criconfig.Node{
		Name: k.cfg.NodeName, HostIPs: k.cfg.NodeIPs, ClusterDNS: k.cfg.ClusterDNS, ClusterDomain: k.cfg.ClusterDomain,
		HostResolv: resolv, LogDir: k.cfg.LogDir, MemoryCapacity: k.memory, SeccompDefault: !k.cfg.UnconfinedSeccomp,
		SeccompProfileRoot: cmp.Or(k.cfg.SeccompProfileRoot, filepath.Join(k.cfg.RootDir, "seccomp")),
		CgroupV2:           cgroups.IsCgroup2UnifiedMode(),
	}, nil
}

// resolv reads the host's resolver configuration. One that only names loopback
// is a local cache's, such as systemd-resolved; what that one asks is used.
func (k *Kubelet) resolv() (criconfig.Resolv, error) {
	path := k.cfg.ResolvConf
	if path == "" {
		path = "/etc/resolv.conf"
	}
	r, err := readResolv(path)
	if errors.Is(err, os.ErrNotExist) {
		return criconfig.Resolv{}, nil
	}
	if err != nil || k.cfg.ResolvConf != "" || !r.OnlyLoopback() {
		return r, err
	}
	if real, err := readResolv("/run/systemd/resolve/resolv.conf"); err == nil {
		return real, nil
	}
	return r, nil
}

func readResolv(path string) (criconfig.Resolv, error) {
	f, err := os.Open(path)
	if err != nil {
		return criconfig.Resolv{}, fmt.Errorf("read resolver configuration: %w", err)
	}
	defer f.Close()
	r, err := criconfig.ParseResolv(f)
	if err != nil {
		return r, fmt.Errorf("read resolver configuration %s: %w", path, err)
	}
	return r, nil
}

func (k *Kubelet) recordContainer(p *v1.Pod, container, kind, reason, message string) {
	k.pods.Record(p, pod.Note{Type: kind, Reason: reason, Message: message, Container: container})
}
