// Package device has the devices of device plugins: programs of the node, each with devices of one extended resource, of which containers
// ask for a number. Plugins register at a socket of the kubelet's, or in its directory of plugins (package plugin). They tell which devices
// there are and how they do; the node's capacity follows that at once. The devices of a container are chosen when its Pod is admitted, and
// what the plugin answers then (variables, mounts, device nodes, annotations, CDI devices) is given to each instance of the container.
//
// Who has which device is in a file before the Pod is admitted, so that after a start nobody else gets it, even before the plugin is back.
// Containers that start then get what was answered before; plugins that have to be told of a start are waited for.
//
// NUMA nodes of devices are told to those who ask which Pod has which; nothing is aligned by them, as with upstream's topology policy none.
//
// Plugins are not believed in what can do harm: how much they say is bounded, and who waits for one is nobody but the Pod that asks for
// its devices. Without plugins there is a socket that is listened on.
package device

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/klog/v2"
	api "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"github.com/peapod/peapod/internal/rootsocket"
	"github.com/peapod/peapod/kubelet/metrics"
)

// stopGrace is Kubernetes' time for a plugin to come back before its resource has no capacity any more.
const stopGrace = 5 * time.Minute

// Bounds of what plugins say. Kubernetes has none but gRPC's for a message (4 MiB).
const (
	maxResources = 256
	maxDevices   = 16384   // of one resource
	maxID        = 253     // bytes of a device's ID
	maxAnswer    = 1 << 20 // bytes of the answer to a call; lists of devices may be of gRPC's size
	maxRequest   = 64 << 10
)

// Config is what a Manager is made from; all of it is needed but Metrics.
type Config struct {
	// RootDir is the kubelet's; plugins are in <RootDir>/device-plugins.
	RootDir string
	// Extended says whether a name is an extended resource's.
	Extended func(v1.ResourceName) bool
	// Counted is called when Capacity says something else now. It does not block.
	Counted func()
	// Changed is called, in the background, with each Pod for which Health may say something else now.
	Changed func(types.UID)
	// Metrics count registrations and allocations; optional.
	Metrics *metrics.Set
}

// Manager has the devices of one node.
type Manager struct {
	api.UnsafeRegistrationServer
	cfg   Config
	grace time.Duration

	ctx    context.Context // of what is done in the background; ends with Run
	cancel context.CancelFunc
	work   sync.WaitGroup

	loading sync.Once
	saving  sync.Mutex // one write of the checkpoint at a time; taken before mu

	mu        sync.Mutex
	resources map[string]*resourced
	// removed are resources that had a plugin in this process, and are told as none now.
	removed map[string]bool
	// news is closed, and replaced, when a plugin comes.
	news  chan struct{}
	pods  map[types.UID]containers
	dirty bool // pods or names of resources are not as in the checkpoint
}

// containers are what the containers of a Pod have: by container, then by resource.
type containers map[string]map[string]*grant

// grant is what a container has of a resource. It is never changed once it has an answer.
type grant struct {
	// devices are the IDs, each with its NUMA nodes.
	devices map[string][]int64
	// answer is what the plugin says that the container needs; nil while it is asked.
	answer *api.ContainerAllocateResponse
}

// resourced is a resource that has a plugin, or had one less than stopGrace ago.
type resourced struct {
	plugin *endpoint // nil: it has gone
	// preStart says that the plugin, or the last one, wants to be asked before each start of a container.
	preStart bool
	// told says that devices is what the plugin that is there says, or the one before it.
	told    bool
	devices map[string]instance
	gone    *time.Timer // while there is no plugin
}

// instance is a device as the plugin tells of it.
type instance struct {
	healthy bool
	nodes   []int64 // NUMA
}

// New makes a Manager. Nothing is read before the first call.
func New(cfg Config) *Manager {
	m := &Manager{cfg: cfg, grace: stopGrace, resources: map[string]*resourced{}, removed: map[string]bool{}, news: make(chan struct{}), pods: map[types.UID]containers{}}
	m.ctx, m.cancel = context.WithCancel(context.Background())
	return m
}

func (m *Manager) dir() string { return filepath.Join(m.cfg.RootDir, "device-plugins") }

// Run serves registration until ctx ends, and then closes the connections to plugins. Containers keep their devices, and plugins register
// again with the next start, which they see by the socket. A node where nothing can be listened on goes on without.
func (m *Manager) Run(ctx context.Context) error {
	defer m.close()
	if err := m.serve(ctx); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Device plugins cannot register on this node", "dir", m.dir())
	}
	<-ctx.Done()
	return nil
}

func (m *Manager) serve(ctx context.Context) error {
	m.load()
	if err := os.MkdirAll(m.dir(), 0o750); err != nil {
		return fmt.Errorf("make directory of device plugins: %w", err)
	}
	if err := m.clean(); err != nil {
		return err
	}
	return rootsocket.Serve(ctx, filepath.Join(m.dir(), "kubelet.sock"), func() rootsocket.Server {
		s := grpc.NewServer(grpc.MaxRecvMsgSize(maxRequest))
		api.RegisterRegistrationServer(s, m)
		return s
	})
}

// clean removes the sockets of plugins that registered with an earlier process: they make new ones.
func (m *Manager) clean() error {
	files, err := os.ReadDir(m.dir())
	if err != nil {
		return fmt.Errorf("list device plugins: %w", err)
	}
	for _, f := range files {
		if f.Type() != fs.ModeSocket {
			continue
		}
		if err := os.Remove(filepath.Join(m.dir(), f.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove socket of a device plugin of before: %w", err)
		}
	}
	return nil
}

// close ends what is done in the background.
func (m *Manager) close() {
	m.mu.Lock()
	m.cancel()
	var open []*endpoint
	for _, r := range m.resources {
		if r.gone != nil {
			r.gone.Stop()
		}
		if r.plugin != nil {
			open = append(open, r.plugin)
		}
	}
	m.mu.Unlock()
	for _, e := range open {
		e.close()
	}
	m.work.Wait()
}

// spawn runs f unless Run has ended. The caller holds mu.
func (m *Manager) spawn(f func()) {
	if m.ctx.Err() == nil {
		m.work.Go(f)
	}
}

// Capacity returns how many devices the node has of each resource that device plugins have, and how many of them Pods may have: the healthy
// ones. A resource whose plugin has gone has them all for a while, and Pods none; then it has none.
func (m *Manager) Capacity() (capacity, allocatable v1.ResourceList) {
	m.load()
	m.mu.Lock()
	defer m.mu.Unlock()
	capacity, allocatable = v1.ResourceList{}, v1.ResourceList{}
	for name := range m.removed {
		capacity[v1.ResourceName(name)], allocatable[v1.ResourceName(name)] = *count(0), *count(0)
	}
	for name, r := range m.resources {
		capacity[v1.ResourceName(name)], allocatable[v1.ResourceName(name)] = *count(len(r.devices)), *count(r.healthy())
	}
	return capacity, allocatable
}

func count(n int) *resource.Quantity { return resource.NewQuantity(int64(n), resource.DecimalSI) }

// healthy counts the devices that may be given to Pods. The caller holds mu.
func (r *resourced) healthy() (n int) {
	for _, d := range r.devices {
		if d.healthy {
			n++
		}
	}
	return n
}

// Has says whether devices of a resource are given by device plugins: one is there or was lately, or a Pod has some.
func (m *Manager) Has(name v1.ResourceName) bool {
	m.load()
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.has(string(name))
}

// has is Has; the caller holds mu.
func (m *Manager) has(name string) bool {
	if m.resources[name] != nil {
		return true
	}
	for _, all := range m.pods {
		for _, grants := range all {
			if grants[name] != nil {
				return true
			}
		}
	}
	return false
}

// Pods are the UIDs of all that have devices.
func (m *Manager) Pods() []types.UID {
	m.load()
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Collect(maps.Keys(m.pods))
}

// Release gives the devices of a Pod back. Idempotent, and to be called again after an error.
func (m *Manager) Release(uid types.UID) error {
	m.load()
	m.mu.Lock()
	m.drop(uid)
	m.mu.Unlock()
	return m.save()
}

// drop forgets what a Pod has. The caller holds mu.
func (m *Manager) drop(uid types.UID) {
	if m.pods[uid] != nil {
		delete(m.pods, uid)
		m.dirty = true
	}
}
