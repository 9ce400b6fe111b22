package pod

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/record"
	internalapi "k8s.io/cri-api/pkg/apis"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/kubelet/allocation"
	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/image"
	"github.com/peapod/peapod/kubelet/metrics"
)

// Config is what the lifecycle of Pods needs. All of it is required but Clock,
// Relist and what is called optional.
type Config struct {
	Runtime     internalapi.RuntimeService
	RuntimeName string   // prefix of container IDs in the API; empty: the runtime is asked
	HostIPs     []string // the node's addresses, primary first
	Images      *image.Puller
	Volumes     Volumes
	Cgroups     Cgroups
	UserNS      UserNamespaces
	Devices     Devices
	Plugins     DevicePlugins // optional
	Network     Network       // optional
	// RuntimeHandler is the runtime's handler that a RuntimeClass stands for.
	RuntimeHandler func(ctx context.Context, class string) (string, error)
	Objects        criconfig.Objects
	Probes         Prober
	Hooks          Hooks
	Status         Publisher
	Admitter       Admitter
	Recorder       record.EventRecorder
	// Node describes the node for a new sandbox or container.
	Node        func() (*criconfig.Node, error)
	Allocatable func() v1.ResourceList
	// RootDir holds <RootDir>/pods/<uid>: hosts files, termination messages.
	RootDir string
	// LogDir holds the containers' logs.
	LogDir string
	// Relist is how often the runtime is asked for everything although it
	// sends events: a safety net. 0 means 60 s.
	Relist time.Duration
	Clock  clock.WithTicker // nil means the real one
	// Metrics count what is done; optional.
	Metrics *metrics.Set
}

// Manager runs one worker a Pod.
type Manager struct {
	cfg Config

	admission   sync.Mutex // one admission or resize at a time, so that no room is given twice
	allocations allocation.Store
	resizes     *resizeQueue

	mu      sync.Mutex
	ctx     context.Context // of Run; nil before
	workers map[types.UID]*worker
	byName  map[types.NamespacedName]types.UID // of the newest Pod of the name
	owner   map[string]types.UID               // container and sandbox IDs seen
	may     permission
	next    map[types.NamespacedName]*v1.Pod // static Pods that wait for the one before them
	settled chan struct{}                    // closed when the static Pods are known
	wg      sync.WaitGroup
}

// NewManager makes a Manager; Run starts it.
func NewManager(cfg Config) (*Manager, error) {
	if cfg.Relist == 0 {
		cfg.Relist = time.Minute
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.Runtime == nil || cfg.RootDir == "" || cfg.LogDir == "" {
		return nil, errors.New("make pod manager: runtime, root and log directories are required")
	}
	return &Manager{
		cfg: cfg, workers: map[types.UID]*worker{}, byName: map[types.NamespacedName]types.UID{}, owner: map[string]types.UID{},
		next: map[types.NamespacedName]*v1.Pod{}, settled: make(chan struct{}),
		allocations: allocation.Store{Dir: func(uid types.UID) string { return Dir(cfg.RootDir, uid) }}, resizes: newResizeQueue(),
	}, nil
}

// permission is which Pods may start.
type permission int

const (
	// nobody: it is not known what is on the node, or Run ends.
	nobody permission = iota
	// static Pods: it is known what is theirs, and not yet what the API says.
	ownPods
	everybody
)

// Run takes over what the runtime has, then keeps all Pods until ctx ends.
// Containers stay as they are when it returns. own are the static Pods that
// there are now; they run at once. bound waits for the Pods that the API server
// binds to this node; false says that ctx ended first.
func (m *Manager) Run(ctx context.Context, own []*v1.Pod, bound func(ctx context.Context) ([]*v1.Pod, bool)) error {
	defer m.wg.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	m.mu.Lock()
	m.ctx = ctx
	m.mu.Unlock()
	defer m.permit(nobody) // before it is waited for those that run: none joins them then
	if m.cfg.RuntimeName == "" {
		v, err := m.cfg.Runtime.Version(ctx, "")
		if err != nil {
			return fmt.Errorf("ask the container runtime for its version: %w", err)
		}
		m.cfg.RuntimeName = v.RuntimeName
	}
	if len(own) > 0 {
		if err := m.adoptOwn(ctx, own); err != nil {
			return err
		}
	}
	m.permit(ownPods)
	close(m.settled)
	m.wg.Go(func() { m.watchRuntime(ctx) })
	pods, ok := bound(ctx)
	if !ok {
		return nil
	}
	m.permit(nobody)
	if err := m.adopt(ctx, pods); err != nil {
		return err
	}
	m.permit(everybody)
	m.wg.Go(func() { m.runResizes(ctx) })
	<-ctx.Done()
	return nil
}

// permit starts the workers that may start now. Those that run go on.
func (m *Manager) permit(may permission) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.may = may
	for _, w := range m.workers {
		m.start(w)
	}
}

// start starts a worker's goroutine, if it may; the caller holds m.mu.
func (m *Manager) start(w *worker) {
	may := m.may == everybody || (m.may == ownPods && w.own)
	if w.running || !may {
		return
	}
	w.running = true
	m.wg.Go(func() {
		w.run(m.ctx)
		if w.state == Gone {
			m.drop(w)
		}
	})
}

func (m *Manager) drop(w *worker) {
	m.mu.Lock()
	defer m.mu.Unlock()
	delete(m.workers, w.uid)
	if m.byName[w.name] == w.uid {
		delete(m.byName, w.name)
	}
	for id, uid := range m.owner {
		if uid == w.uid {
			delete(m.owner, id)
		}
	}
	m.cfg.Status.Forget(w.latest)
	m.cfg.Probes.Forget(w.uid)
	if w.own {
		m.startNext()
	}
}

// Upsert tells of a Pod bound to this node, new or changed.
func (m *Manager) Upsert(pod *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	w := m.workers[pod.UID]
	if w == nil {
		w = newWorker(m, pod)
		m.workers[pod.UID] = w
	}
	w.name = nameOf(pod)
	m.byName[w.name] = pod.UID
	changed := false
	w.update(func() {
		changed = !maps.Equal(w.pod.Labels, pod.Labels) || !maps.Equal(w.pod.Annotations, pod.Annotations)
		w.pod = pod
	})
	if changed {
		m.cfg.Volumes.Changed(w.given(pod))
	}
	m.start(w)
}

// Delete tells that a Pod left the API, or this node.
func (m *Manager) Delete(pod *v1.Pod) {
	if w := m.worker(pod.UID); w != nil {
		w.update(func() { w.deleted = true })
		m.RoomChanged()
	}
}

// Wake makes a Pod's worker look at everything again.
func (m *Manager) Wake(uid types.UID) {
	if w := m.worker(uid); w != nil {
		w.update(func() {})
	}
}

func (m *Manager) worker(uid types.UID) *worker {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.workers[uid]
}

// Evict implements Evictor.
func (m *Manager) Evict(uid types.UID, e Eviction) error {
	w := m.worker(uid)
	if w == nil {
		return fmt.Errorf("evict pod %s: not on this node", uid)
	}
	w.update(func() {
		if w.evicted == nil {
			w.evicted = &Termination{
				Reason: e.Reason, Message: e.Message, Failed: true, Condition: e.Condition,
				By: m.cfg.Clock.Now().Add(time.Duration(e.GraceSeconds) * time.Second),
			}
		}
	})
	return nil
}

// Pod implements Lookup.
func (m *Manager) Pod(namespace, name string) (*v1.Pod, bool) {
	m.mu.Lock()
	uid, ok := m.byName[types.NamespacedName{Namespace: namespace, Name: name}]
	m.mu.Unlock()
	if !ok {
		return nil, false
	}
	return m.PodByUID(uid)
}

// PodByUID implements Lookup.
func (m *Manager) PodByUID(uid types.UID) (*v1.Pod, bool) {
	w := m.worker(uid)
	if w == nil {
		return nil, false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.latest, true
}

// Pods implements Lookup.
func (m *Manager) Pods() []*v1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := make([]*v1.Pod, 0, len(m.workers))
	for _, w := range m.workers {
		w.mu.Lock()
		out = append(out, w.latest)
		w.mu.Unlock()
	}
	return out
}

// SandboxID implements Lookup.
func (m *Manager) SandboxID(ctx context.Context, uid types.UID) (string, bool) {
	w := m.worker(uid)
	if w == nil || w.awaitShown(ctx) != nil {
		return "", false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	sb := w.seen.Sandbox()
	if sb == nil {
		return "", false
	}
	return sb.ID, true
}

// ContainerID implements Lookup.
func (m *Manager) ContainerID(ctx context.Context, uid types.UID, container string, previous bool) (string, error) {
	w := m.worker(uid)
	if w == nil {
		return "", fmt.Errorf("find container %s: pod %s is not on this node", container, uid)
	}
	if err := w.awaitShown(ctx); err != nil {
		return "", fmt.Errorf("find container %s of pod %s: %w", container, uid, err)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	c := w.seen.Newest(container)
	if previous {
		c = w.seen.Previous(container)
	}
	if c != nil {
		return c.ID, nil
	}
	e := &NoContainerError{Pod: w.latest.Name, Container: container, Previous: previous}
	if st := apiStatus(w.latest, container); st != nil && st.State.Waiting != nil {
		e.Waiting = st.State.Waiting.Reason
		if e.Waiting == "ErrImagePull" || e.Waiting == "ImagePullBackOff" {
			e.Waiting = "trying and failing to pull image"
		}
	}
	return "", e
}

// others are the Pods that hold resources of the node, but one.
func (m *Manager) others(but types.UID) []*v1.Pod { return allBut(m.holders(), but) }

func allBut(holders map[types.UID]*v1.Pod, but types.UID) []*v1.Pod {
	out := make([]*v1.Pod, 0, len(holders))
	for uid, p := range holders {
		if uid != but {
			out = append(out, p)
		}
	}
	return out
}

// ceded are the Pods whose devices others may have: those that nothing runs of
// any more, and those without an object, as for holders.
func (m *Manager) ceded() (list []types.UID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for uid, w := range m.workers {
		w.mu.Lock()
		if w.idle || w.deleted {
			list = append(list, uid)
		}
		w.mu.Unlock()
	}
	return list
}

// holders are the Pods that hold resources of the node, each with those that are
// allocated to it.
func (m *Manager) holders() map[types.UID]*v1.Pod {
	m.mu.Lock()
	defer m.mu.Unlock()
	out := map[types.UID]*v1.Pod{}
	for uid, w := range m.workers {
		w.mu.Lock()
		// A Pod without an object holds nothing any more, though its end may take a moment: the scheduler has given its room
		// away, and to refuse the next Pod would be for good. What the two cannot share is tried again by whoever makes it.
		if w.holds && !w.deleted {
			out[uid] = w.holder()
		}
		w.mu.Unlock()
	}
	return out
}

// holder is the Pod with what is allocated to it now, and with the newest
// status; the caller holds w.mu.
func (w *worker) holder() *v1.Pod {
	if w.allocated == nil {
		return w.latest
	}
	p := w.allocated.Allocated.Apply(w.latest)
	// The spec is what it has, so that it counts whatever else was asked for.
	p.Status.Conditions = slices.DeleteFunc(slices.Clone(p.Status.Conditions), func(c v1.PodCondition) bool { return resizeCondition(c.Type) })
	return p
}

// Record records a Kubernetes Event about a Pod or one of its containers.
func (m *Manager) Record(pod *v1.Pod, n Note) { m.note(pod, n) }

// note records a Kubernetes Event about a Pod or one of its containers.
func (m *Manager) note(pod *v1.Pod, n Note) {
	ref := &v1.ObjectReference{
		Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID, ResourceVersion: pod.ResourceVersion,
	}
	if n.Container != "" {
		list := "containers"
		switch {
		case isInit(pod, n.Container):
			list = "initContainers"
		case isEphemeral(pod, n.Container):
			list = "ephemeralContainers"
		}
		ref.FieldPath = fmt.Sprintf("spec.%s{%s}", list, n.Container)
	}
	m.cfg.Recorder.Event(ref, n.Type, n.Reason, n.Message)
}

func (m *Manager) log(ctx context.Context, pod *v1.Pod) klog.Logger {
	return klog.FromContext(ctx).WithValues("pod", klog.KObj(pod), "podUID", pod.UID)
}
