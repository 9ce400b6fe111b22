// Package volume mounts what the volumes of Pods declare: emptyDir, hostPath, configMap, secret, downwardAPI, projected
// (service-account tokens, trust bundles and Pod certificates included) and image volumes, claims whose persistent volumes are
// local or hostPath, and what CSI drivers have, inline or behind claims (kubelet/csi). It implements pod.Volumes.
//
// Everything of a Pod lies under <root>/pods/<uid>: volumes in volumes/<plugin>/<name>, as Kubernetes' kubelet lays them
// out, and the bind mounts of sub-paths in volume-subpaths. The directories and the mount table are the only record: every
// step may be repeated, and a Pod's teardown needs nothing but its UID.
//
// Volumes made from API objects follow them: while a Pod is prepared, the objects that it names are watched, and a change
// or a token or certificate near its end has the Pod's volumes written anew, each file set at once.
package volume

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/internal/queueclock"
	"github.com/peapod/peapod/internal/removetree"
	"github.com/peapod/peapod/kubelet/csi"
	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/pod"
)

// Config is what a Manager is made from.
type Config struct {
	// Client acts as the node: it may read only what its Pods refer to.
	Client kubernetes.Interface
	// RootDir is the kubelet's directory.
	RootDir string
	// Allocatable is what a container without limits may use, for the downward API.
	Allocatable func() v1.ResourceList
	// HostIPs are the node's addresses, the primary family's first.
	HostIPs func() []string
	// NodeName is the node's; Node is its object: persistent volumes may ask for its labels, and certificates for Pods are
	// asked for in its name. Both are required for these.
	NodeName string
	Node     func() (*v1.Node, error)
	// Provide, if not nil, makes the directory of a persistent volume, where that is this node's to make, before it is
	// mounted.
	Provide func(ctx context.Context, v *v1.PersistentVolume) error
	// Event records an event as the kubelet.
	Event func(about runtime.Object, kind, reason, message string)
	// CSI has the volumes of CSI drivers; optional: without it there are none.
	CSI *csi.Plugin
	// PodIPs are a Pod's addresses once it has a sandbox.
	PodIPs func(uid types.UID) []string
	// Clock is the real one if nil.
	Clock clock.WithTicker
	// Metrics count what is mounted; optional.
	Metrics *metrics.Set
}

// Manager is the volumes of one node's Pods.
type Manager struct {
	cfg     Config
	objects *objects
	tokens  *tokens
	// certificates are of Pods; guarded by mu.
	certificates map[certificateKey]*certificate
	// stale has the Pods whose volumes must be written anew.
	stale workqueue.TypedRateLimitingInterface[types.UID]

	// mu is taken within a Pod's, never the other way round.
	mu   sync.Mutex
	pods map[types.UID]*podVolumes
	// exclusive are the Pods that have a persistent volume which is for one Pod only.
	exclusive map[string]*podVolumes
}

// podVolumes is a Pod that is prepared, or being so.
type podVolumes struct {
	// newest is the Pod as it is now, where that is not yet in pod.
	newest atomic.Pointer[v1.Pod]
	// claimed are the volumes behind the Pod's claims, and those of drivers, by the name that the Pod gives them, once they are set
	// up. The map is replaced, never changed.
	claimed atomic.Pointer[map[string]claimed]

	mu   sync.Mutex
	pod  *v1.Pod
	refs []objectRef
	// ready says that every volume was set up once.
	ready bool
	// preparing says that Prepare is at work: only that begins to mount what a driver has, and tells of failures.
	preparing bool
	gone      bool
	// growth is what hindered volumes that are mounted from growing, at the last look.
	growth error
	// ended is closed when the Pod is torn down.
	ended chan struct{}
}

var _ pod.Volumes = (*Manager)(nil)

// New returns a manager that touches nothing before its first call.
func New(cfg Config) *Manager {
	if cfg.Clock == nil {
		cfg.Clock = queueclock.Clock{}
	}
	m := &Manager{cfg: cfg, pods: map[types.UID]*podVolumes{}, exclusive: map[string]*podVolumes{}, certificates: map[certificateKey]*certificate{}}
	m.stale = workqueue.NewTypedRateLimitingQueueWithConfig(
		workqueue.NewTypedItemExponentialFailureRateLimiter[types.UID](500*time.Millisecond, 2*time.Minute),
		workqueue.TypedRateLimitingQueueConfig[types.UID]{Name: "volumes", Clock: cfg.Clock})
	m.objects = newObjects(cfg.Client, cfg.NodeName, func(uid types.UID) { m.stale.Add(uid) })
	m.tokens = newTokens(cfg.Client, cfg.Clock)
	return m
}

// Run keeps volumes in step with the objects they are made from, until ctx ends. Prepare works without it.
func (m *Manager) Run(ctx context.Context) error {
	logger := klog.FromContext(ctx).WithName("volumes")
	var workers sync.WaitGroup
	for range 2 {
		workers.Go(func() {
			for {
				uid, shutdown := m.stale.Get()
				if shutdown {
					return
				}
				if err := m.refresh(ctx, uid); err != nil && ctx.Err() == nil {
					logger.Error(err, "Refresh volumes failed, will retry", "podUID", uid)
					m.stale.AddRateLimited(uid)
				} else {
					m.stale.Forget(uid)
				}
				m.stale.Done(uid)
			}
		})
	}
	<-ctx.Done()
	m.stale.ShutDown()
	workers.Wait()
	m.objects.stop()
	return nil
}

func (m *Manager) podDir(uid types.UID) string {
	return filepath.Join(m.cfg.RootDir, "pods", string(uid))
}

// Adopt implements pod.Volumes.
func (m *Manager) Adopt(ctx context.Context, pods []*v1.Pod) error {
	keep := make(map[string]bool, len(pods))
	for _, p := range pods {
		keep[string(p.UID)] = true
		if _, err := os.Stat(filepath.Join(m.podDir(p.UID), "volumes")); err == nil {
			// It has volumes from before: follow their objects again.
			m.track(p)
			m.stale.Add(p.UID)
		}
	}
	entries, err := os.ReadDir(filepath.Join(m.cfg.RootDir, "pods"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list Pods' directories: %w", err)
	}
	var errs []error
	for _, e := range entries {
		uid := types.UID(e.Name())
		switch {
		case keep[e.Name()]:
		case m.cfg.CSI != nil && m.cfg.CSI.Has(uid):
			// Its driver may not be there yet, or never again.
			m.cfg.CSI.Abandon(uid, func(ctx context.Context) error { return m.Teardown(ctx, uid) })
		default:
			errs = append(errs, m.Teardown(ctx, uid))
		}
	}
	return errors.Join(errs...)
}

// track returns the Pod's entry with its newest object.
func (m *Manager) track(p *v1.Pod) *podVolumes {
	m.mu.Lock()
	pv := m.pods[p.UID]
	if pv == nil {
		pv = &podVolumes{ended: make(chan struct{})}
		m.pods[p.UID] = pv
	}
	m.mu.Unlock()
	pv.mu.Lock()
	defer pv.mu.Unlock()
	pv.pod = p
	return pv
}

// Changed implements pod.Volumes.
func (m *Manager) Changed(p *v1.Pod) {
	m.mu.Lock()
	pv := m.pods[p.UID]
	m.mu.Unlock()
	if pv == nil {
		return
	}
	pv.newest.Store(p)
	m.stale.Add(p.UID)
}

// Prepare implements pod.Volumes.
func (m *Manager) Prepare(ctx context.Context, p *v1.Pod) error {
	if len(p.Spec.Volumes) == 0 {
		return nil
	}
	pv := m.track(p)
	pv.mu.Lock()
	defer pv.mu.Unlock()
	pv.preparing = true
	defer func() { pv.preparing = false }()
	return m.setUp(ctx, pv)
}

// refresh writes a Pod's volumes anew.
func (m *Manager) refresh(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	pv := m.pods[uid]
	m.mu.Unlock()
	if pv == nil {
		return nil
	}
	pv.mu.Lock()
	defer pv.mu.Unlock()
	if pv.gone {
		return nil
	}
	err := m.setUp(ctx, pv)
	var missing *pod.RetryError
	if errors.As(err, &missing) {
		// Its object's next event has this run again. Where files of one that went are in use they stay as they are.
		err = nil
	}
	return errors.Join(err, pv.growth)
}

// setUp brings every volume of the Pod into its desired state. The caller holds pv.mu.
func (m *Manager) setUp(ctx context.Context, pv *podVolumes) error {
	if p := pv.newest.Swap(nil); p != nil {
		pv.pod = p
	}
	m.follow(pv, append(m.refs(pv), pv.unsettled()...))
	pv.growth = nil
	var again time.Time
	var failed []failure
	for i := range pv.pod.Spec.Volumes {
		v := &pv.pod.Spec.Volumes[i]
		began := time.Now()
		renew, err := m.setUpVolume(ctx, pv, v)
		m.counted(pv, v, began, err)
		if err != nil {
			failed = append(failed, failure{v.Name, err})
			continue
		}
		if !renew.IsZero() && (again.IsZero() || renew.Before(again)) {
			again = renew
		}
	}
	if len(failed) > 0 {
		return report(failed)
	}
	pv.ready = true
	// What claims stand for is settled: they need no watch, but for those whose volumes may grow.
	m.follow(pv, append(m.refs(pv), pv.growing()...))
	if !again.IsZero() {
		m.stale.AddAfter(pv.pod.UID, again.Sub(m.cfg.Clock.Now()))
	}
	return nil
}

// refs are the objects that the Pod's files are made from, now.
func (m *Manager) refs(pv *podVolumes) []objectRef {
	return append(refsOf(pv.pod), m.pendingCertificates(pv.pod.UID)...)
}

// follow watches these objects for the Pod, and no others. The caller holds pv.mu.
func (m *Manager) follow(pv *podVolumes, refs []objectRef) {
	m.objects.follow(pv.pod.UID, pv.refs, refs)
	pv.refs = refs
}

// setUpVolume brings one volume into its desired state and says when it must be looked at again; zero for only when its
// objects change.
func (m *Manager) setUpVolume(ctx context.Context, pv *podVolumes, v *v1.Volume) (renew time.Time, err error) {
	p := pv.pod
	switch {
	case v.EmptyDir != nil:
		return time.Time{}, m.setUpEmptyDir(p, v)
	case v.HostPath != nil:
		return time.Time{}, checkHostPath(v.HostPath)
	case v.Image != nil:
		return time.Time{}, nil // the runtime mounts it
	case usesClaim(v):
		return time.Time{}, m.setUpClaim(ctx, pv, v)
	case v.CSI != nil:
		return time.Time{}, m.setUpInline(pv, v)
	case v.ConfigMap != nil, v.Secret != nil, v.DownwardAPI != nil, v.Projected != nil:
		return m.setUpFiles(ctx, pv, v)
	}
	return time.Time{}, fmt.Errorf("no volume plugin matched: this node has none for the kind of volume %q", v.Name)
}

// Teardown implements pod.Volumes.
func (m *Manager) Teardown(ctx context.Context, uid types.UID) error {
	m.mu.Lock()
	pv := m.pods[uid]
	m.mu.Unlock()
	if pv != nil {
		pv.mu.Lock()
		pv.gone = true
		m.objects.follow(uid, pv.refs, nil)
		pv.refs = nil
		pv.mu.Unlock() // a driver may take long, and who refreshes volumes is not to wait for it
	}
	if m.cfg.CSI != nil {
		if err := m.cfg.CSI.TearDown(ctx, uid); err != nil {
			return fmt.Errorf("unmount volumes of pod %s: %w", uid, err)
		}
	}
	if pv != nil {
		pv.mu.Lock()
		defer pv.mu.Unlock()
	}
	m.tokens.forget(uid)
	m.forgetCertificates(uid)
	if err := removetree.Remove(m.podDir(uid)); err != nil {
		return fmt.Errorf("remove volumes of pod %s: %w", uid, err)
	}
	if pv != nil {
		m.release(pv)
	}
	return nil
}
