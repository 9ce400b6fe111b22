// Package csi has volumes made by drivers that speak the Container Storage Interface, as far as a node has a part in that: it
// registers the drivers of the node (CSINode), waits until a volume is attached to the node, and asks the driver to stage it
// once on the node and to publish it to each Pod.
//
// What was begun on the node is on disk before the driver is asked: a record beside each place that a volume is staged or
// published at, where Kubernetes' kubelet has it (vol_data.json). So a start after a crash knows what the driver may have done,
// and undoes what nobody needs any more. A record that says in which boot the driver has finished stands for a volume that needs
// no second call.
//
// A driver is another's program, and may take for ever: each mount is a goroutine of its own, whose end Pods wait for, and every
// call ends after two minutes. Where no driver is registered there is none, and no timer.
package csi

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/kubelet/metrics"
)

// Kubernetes' time-outs: of one call to a driver, and of all that a volume takes to be attached.
const (
	callTimeout   = 2 * time.Minute
	attachTimeout = 2*time.Minute + 3*time.Second
)

// Config is what a Plugin is made from; all of it is needed, but for the clock.
type Config struct {
	// Client acts as the node.
	Client   kubernetes.Interface
	NodeName string
	// RootDir is the kubelet's.
	RootDir string
	// Kick has the node's status written soon, with what InUse says.
	Kick func()
	// Clock says when volumes are published again; nil means the real one.
	Clock clock.WithDelayedExecution
	// Metrics time what drivers are asked; optional.
	Metrics *metrics.Set
}

// Volume is what a Pod has of a driver.
type Volume struct {
	Pod *v1.Pod
	// Named is what the Pod calls it.
	Named string
	// Exactly one of these says what it is.
	Persistent *v1.PersistentVolume
	Inline     *v1.CSIVolumeSource
	ReadOnly   bool
	// Own gives a file system to the Pod's group, where it is the kubelet's to do so; nil for a Pod without.
	Own func(path string) error
	// Token returns a token of the Pod's service account. It may be called for as long as the volume is mounted.
	Token func(ctx context.Context, audience string, seconds *int64) (authenticationv1.TokenRequestStatus, error)
}

// Published is a volume that is ready for containers.
type Published struct {
	// Path is a directory, or a block device.
	Path  string
	Block bool
}

// Plugin has the volumes of one node.
type Plugin struct {
	cfg  Config
	boot string

	ctx    context.Context // of all work; ends with Run
	cancel context.CancelFunc
	work   sync.WaitGroup

	loading sync.Once
	failed  error // of the loading

	// installing is held while CSINode and Node are written.
	installing sync.Mutex

	mu      sync.Mutex
	drivers map[string]*driver
	node    *v1.Node
	// driverNews is closed when a driver comes or goes, nodeNews when the Node object changes; both are then replaced.
	driverNews, nodeNews chan struct{}
	volumes              map[v1.UniqueVolumeName]*shared
	mounts               map[mountKey]*mounting
}

// New makes a Plugin. Nothing is read before the first call.
func New(cfg Config) *Plugin {
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	p := &Plugin{cfg: cfg, drivers: map[string]*driver{}, driverNews: make(chan struct{}), nodeNews: make(chan struct{}),
		volumes: map[v1.UniqueVolumeName]*shared{}, mounts: map[mountKey]*mounting{}}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	return p
}

// Run works until ctx ends. Volumes stay as they are then, and the next Run takes them over.
func (p *Plugin) Run(ctx context.Context) error {
	if err := p.load(); err != nil {
		return err
	}
	<-ctx.Done()
	p.mu.Lock()
	p.cancel()
	for _, m := range p.mounts {
		m.stopRepublishing()
	}
	p.mu.Unlock()
	p.work.Wait()
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, d := range p.drivers {
		d.close()
	}
	return nil
}

// spawn runs f unless Run has ended. The caller holds mu.
func (p *Plugin) spawn(f func()) {
	if p.ctx.Err() == nil {
		p.work.Go(f)
	}
}

// load takes over what an earlier process has left, once.
func (p *Plugin) load() error {
	p.loading.Do(func() {
		boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
		if err != nil {
			p.failed = fmt.Errorf("read the ID of this boot: %w", err)
			return
		}
		p.boot = strings.TrimSpace(string(boot))
		p.failed = p.restore()
	})
	return p.failed
}

// InUse are the volumes that the node may have something of, and that must stay attached for that; ok is false while that is not
// known.
func (p *Plugin) InUse() (list []v1.UniqueVolumeName, ok bool) {
	if p.load() != nil {
		return nil, false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for name, s := range p.volumes {
		if s.attach {
			list = append(list, name)
		}
	}
	return list, true
}

// mountKey is a volume of a Pod. The name is that of the persistent volume, or the Pod's own for an inline one.
type mountKey struct {
	uid  types.UID
	name string
}
