package pod_test

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/record"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/kubelet/admit"
	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/critest"
	"github.com/peapod/peapod/kubelet/image"
	"github.com/peapod/peapod/kubelet/metrics"
	"github.com/peapod/peapod/kubelet/pod"
	"github.com/peapod/peapod/kubelet/probe"
	"github.com/peapod/peapod/kubelet/userns"
)

// volumes are volumes that are there at once, and remember what is mounted.
type volumes struct {
	mu      sync.Mutex
	mounted map[types.UID]bool
	newest  *v1.Pod // that it was told of
	err     error
}

func (v *volumes) Adopt(context.Context, []*v1.Pod) error { return nil }

func (v *volumes) Changed(p *v1.Pod) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.newest = p
}

func (v *volumes) Prepare(_ context.Context, p *v1.Pod) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.err == nil {
		v.mounted[p.UID] = true
	}
	return v.err
}

func (v *volumes) Devices(context.Context, *v1.Pod, *v1.Container) ([]*runtimeapi.Device, error) {
	return nil, nil
}

func (v *volumes) File(*v1.Pod, string, string) ([]byte, error) { return nil, nil }

func (v *volumes) Mounts(context.Context, *v1.Pod, *v1.Container, map[string]string) ([]*runtimeapi.Mount, error) {
	return nil, nil
}

func (v *volumes) Teardown(_ context.Context, uid types.UID) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.mounted, uid)
	return nil
}

// groups are cgroups by name only.
type groups struct {
	mu     sync.Mutex
	have   map[types.UID]bool
	calls  []string // of Ensure and Widen, with the Pods' memory limits in MiB
	memory int64    // in use by each Pod
	err    error    // of Widen
}

func (g *groups) PodPath(p *v1.Pod) string { return "/test/pod" + string(p.UID) }

func (g *groups) Ensure(p *v1.Pod) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.have[p.UID] = true
	g.calls = append(g.calls, fmt.Sprintf("Ensure %d", g.MemoryLimit(p)>>20))
	return nil
}

func (g *groups) Widen(from, to *v1.Pod) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, fmt.Sprintf("Widen %d %d", g.MemoryLimit(from)>>20, g.MemoryLimit(to)>>20))
	return g.err
}

func (g *groups) fail(err error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.err = err
}

func (g *groups) uses(bytes int64) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.memory = bytes
}

func (g *groups) Memory(*v1.Pod) (int64, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.memory, nil
}

func (g *groups) MemoryLimit(p *v1.Pod) (sum int64) {
	for i := range p.Spec.Containers {
		sum += p.Spec.Containers[i].Resources.Limits.Memory().Value()
	}
	return sum
}

func (g *groups) Remove(_ context.Context, uid types.UID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.have, uid)
	return nil
}

func (g *groups) Pods() (map[types.UID]bool, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	out := map[types.UID]bool{}
	for uid := range g.have {
		out[uid] = true
	}
	return out, nil
}

// board is where statuses are published; it plays the API's part of a
// deletion: a final status of a Pod that is being deleted removes it.
type board struct {
	t       *testing.T
	mu      sync.Mutex
	status  map[types.UID]v1.PodStatus
	history map[types.UID][]v1.PodPhase
	unready map[types.UID]int // how often a Pod that runs was said not to be ready
	changed chan struct{}
	remove  func(p *v1.Pod)

	forgotten map[types.UID]bool
}

func (b *board) Set(p *v1.Pod, s v1.PodStatus, final bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status[p.UID] = s
	b.tellsOfResize(p, &s)
	if c := conditionOf(s, v1.PodReady); s.Phase == v1.PodRunning && c != nil && c.Status == v1.ConditionFalse {
		b.unready[p.UID]++
	}
	if h := b.history[p.UID]; len(h) == 0 || h[len(h)-1] != s.Phase {
		b.history[p.UID] = append(h, s.Phase)
	}
	close(b.changed)
	b.changed = make(chan struct{})
	if final && p.DeletionTimestamp != nil {
		go b.remove(p)
	}
}

// tellsOfResize checks what clients rely on: a status of the newest generation whose containers do not have what that asks
// for says why.
func (b *board) tellsOfResize(p *v1.Pod, s *v1.PodStatus) {
	if s.ObservedGeneration != p.Generation || p.DeletionTimestamp != nil || s.Phase != v1.PodRunning {
		return
	}
	if conditionOf(*s, v1.PodResizePending) != nil || conditionOf(*s, v1.PodResizeInProgress) != nil {
		return
	}
	for i, c := range s.ContainerStatuses {
		if want := p.Spec.Containers[i].Resources; c.State.Running != nil && c.Resources != nil && !apiequality.Semantic.DeepEqual(*c.Resources, want) {
			b.t.Errorf("pod %s has %v in generation %d, which asks for %v, and no condition says why", p.Name, *c.Resources, p.Generation, want)
		}
	}
}

func (b *board) Tried(context.Context, *v1.Pod) error { return nil }

func (b *board) Forget(p *v1.Pod) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.forgotten[p.UID] = true
	close(b.changed)
	b.changed = make(chan struct{})
}

// stage is a Manager with everything around it.
type stage struct {
	network pod.Network // nil: none
	t       *testing.T
	rt      *critest.Runtime
	images  *critest.Images
	volumes *volumes
	devices *devices
	plugins *plugins // nil: none
	groups  *groups
	ranges  *userns.Ranges
	board   *board
	events  *record.FakeRecorder
	metrics *metrics.Set
	m       *pod.Manager
	dir     string
	node    v1.Node                                 // what Pods are admitted to
	own     []*v1.Pod                               // static ones
	bound   func(context.Context) ([]*v1.Pod, bool) // nil: what start is given
	clock   clock.WithTicker
	stop    func()
}

type secrets struct{}

func (secrets) Secret(context.Context, string, string) (*v1.Secret, error) {
	return nil, fmt.Errorf("no secrets here")
}

func newStage(t *testing.T) *stage {
	s := &stage{
		t: t, clock: clock.RealClock{}, rt: critest.New(), images: critest.NewImages("img:1"), dir: t.TempDir(),
		volumes: &volumes{mounted: map[types.UID]bool{}}, devices: &devices{of: map[types.UID]bool{}, tried: make(chan struct{}, 1)}, groups: &groups{have: map[types.UID]bool{}},
		node: v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: v1.NodeStatus{Allocatable: amounts("cpu", "4", "memory", "1Gi")}},
	}
	return s
}

// amounts makes a list from pairs of names and quantities.
func amounts(pairs ...string) v1.ResourceList {
	out := v1.ResourceList{}
	for i := 0; i < len(pairs); i += 2 {
		out[v1.ResourceName(pairs[i])] = resource.MustParse(pairs[i+1])
	}
	return out
}

// objects answers from a fake API.
type objects struct{ client *fake.Clientset }

func (o objects) ConfigMap(ctx context.Context, ns, name string) (*v1.ConfigMap, error) {
	return o.client.CoreV1().ConfigMaps(ns).Get(ctx, name, metav1.GetOptions{})
}

func (o objects) Secret(ctx context.Context, ns, name string) (*v1.Secret, error) {
	return o.client.CoreV1().Secrets(ns).Get(ctx, name, metav1.GetOptions{})
}

func (o objects) Services(string) ([]*v1.Service, error) { return nil, nil }

// openRanges reads the ranges of IDs anew, as a restart does.
func (s *stage) openRanges() *userns.Ranges {
	s.t.Helper()
	s.ranges = userns.New(userns.Config{Dir: filepath.Join(s.dir, "userns"), Runtime: s.rt, MaxPods: 110})
	if err := s.ranges.Open(); err != nil {
		s.t.Fatal(err)
	}
	return s.ranges
}

// start runs a Manager over what the stage has, with these Pods in the API.
func (s *stage) start(pods ...*v1.Pod) {
	s.board = &board{t: s.t, unready: map[types.UID]int{}, status: map[types.UID]v1.PodStatus{}, history: map[types.UID][]v1.PodPhase{}, changed: make(chan struct{}), forgotten: map[types.UID]bool{}}
	s.events = record.NewFakeRecorder(10000)
	s.metrics = metrics.New()
	checker := &probe.Checker{Runtime: s.rt}
	prober := probe.New(probe.Config{Checker: checker, Record: func(p *v1.Pod, c, kind, reason, message string) {
		s.events.Event(p, kind, reason, message)
	}})
	var err error
	var plugged pod.DevicePlugins
	if s.plugins != nil {
		plugged = s.plugins
	}
	s.m, err = pod.NewManager(pod.Config{
		Runtime: s.rt, HostIPs: []string{"192.0.2.1"}, Volumes: s.volumes, Cgroups: s.groups, UserNS: s.openRanges(), Devices: s.devices, Plugins: plugged, Network: s.network, Objects: objects{fake.NewClientset()},
		RuntimeHandler: func(_ context.Context, class string) (string, error) {
			handler, ok := strings.CutPrefix(class, "class-of-")
			if !ok {
				return "", fmt.Errorf("runtimeclass.node.k8s.io %q not found", class)
			}
			return handler, nil
		},
		Images: image.New(image.Config{Images: s.images, Secrets: secrets{}}), Probes: prober, Hooks: checker,
		Status: s.board, Admitter: admit.New(func() (*v1.Node, error) { return &s.node, nil }, nil, nil), Recorder: s.events, Clock: s.clock,
		Node: func() (*criconfig.Node, error) {
			return &criconfig.Node{Name: "n1", HostIPs: []string{"192.0.2.1"}, ClusterDomain: "cluster.local", LogDir: filepath.Join(s.dir, "logs")}, nil
		},
		Allocatable: func() v1.ResourceList { return nil },
		RootDir:     filepath.Join(s.dir, "root"), LogDir: filepath.Join(s.dir, "logs"), Relist: time.Hour, Metrics: s.metrics,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	s.board.remove = s.m.Delete
	bound := s.bound
	if bound == nil {
		bound = func(context.Context) ([]*v1.Pod, bool) { return pods, true }
	}
	ctx, cancel := context.WithCancel(s.t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { prober.Run(ctx, s.m.Wake) })
	wg.Go(func() {
		if err := s.m.Run(ctx, s.own, bound); err != nil {
			s.t.Error(err)
		}
	})
	s.stop = func() { cancel(); wg.Wait() }
	s.t.Cleanup(s.stop)
}

// until waits for a status of a Pod.
func (s *stage) until(p *v1.Pod, what string, ok func(v1.PodStatus) bool) v1.PodStatus {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		s.board.mu.Lock()
		st, changed := s.board.status[p.UID], s.board.changed
		s.board.mu.Unlock()
		if ok(st) {
			return st
		}
		select {
		case <-changed:
		case <-timeout:
			s.t.Fatalf("pod %s never %s; status %+v; calls %v", p.Name, what, st, s.rt.Calls())
		}
	}
}

func (s *stage) empty() {
	s.t.Helper()
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	if err := s.rt.Wait(ctx, s.rt.Empty); err != nil {
		s.t.Fatalf("the runtime is not empty: %v", s.rt.Calls())
	}
}

func running(s v1.PodStatus) bool {
	for _, c := range s.Conditions {
		if c.Type == v1.PodReady && c.Status == v1.ConditionTrue {
			return s.Phase == v1.PodRunning
		}
	}
	return false
}

func onePod(name string, change func(*v1.Pod)) *v1.Pod {
	grace := int64(30)
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID("uid-" + name), Generation: 1},
		Spec: v1.PodSpec{
			NodeName: "n1", RestartPolicy: v1.RestartPolicyAlways, TerminationGracePeriodSeconds: &grace,
			Containers: []v1.Container{{
				Name: "main", Image: "img:1", ImagePullPolicy: v1.PullIfNotPresent, TerminationMessagePath: "/dev/termination-log",
				TerminationMessagePolicy: v1.TerminationMessageReadFile,
			}},
		},
	}
	if change != nil {
		change(p)
	}
	return p
}

func deleted(p *v1.Pod, grace int64) *v1.Pod {
	p = p.DeepCopy()
	now := metav1.Now()
	p.DeletionTimestamp, p.DeletionGracePeriodSeconds = &now, &grace
	return p
}

// gone waits until the manager has forgotten a Pod.
func (s *stage) gone(p *v1.Pod) {
	s.t.Helper()
	timeout := time.After(time.Minute)
	for {
		s.board.mu.Lock()
		forgotten, changed := s.board.forgotten[p.UID], s.board.changed
		s.board.mu.Unlock()
		if forgotten {
			break
		}
		select {
		case <-changed:
		case <-timeout:
			s.t.Fatalf("pod %s is still known", p.Name)
		}
	}
	if _, ok := s.m.PodByUID(p.UID); ok {
		s.t.Errorf("pod %s is forgotten but known", p.Name)
	}
}
