// Package scheduler gives each Pod without a node the best one. Decisions are made by one goroutine on state that events
// keep up to date (packages cluster, queue and cycle, all pure); binding to the API runs beside it.
//
// A Pod that fits nowhere is tried again when something that could help it changes, never because time has passed.
package scheduler

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	policylisters "k8s.io/client-go/listers/policy/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/events"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"

	"github.com/peapod/peapod/scheduler/cluster"
	"github.com/peapod/peapod/scheduler/cycle"
	"github.com/peapod/peapod/scheduler/framework"
	"github.com/peapod/peapod/scheduler/metrics"
	"github.com/peapod/peapod/scheduler/plugins"
	"github.com/peapod/peapod/scheduler/plugins/dynamicresources"
	"github.com/peapod/peapod/scheduler/plugins/volumebinding"
	"github.com/peapod/peapod/scheduler/queue"
)

// Config is what a scheduler is made from.
type Config struct {
	// Client acts as system:kube-scheduler.
	Client kubernetes.Interface
	// Informers are shared; Pods, Nodes, Namespaces, PodDisruptionBudgets, claims, volumes, storage classes, CSI's kinds, Services and
	// what owns Pods are watched; claims for devices, their classes, slices and taints when a Pod needs some.
	Informers informers.SharedInformerFactory
	// Recorder reports Scheduled and FailedScheduling.
	Recorder events.EventRecorder
	// Name is the spec.schedulerName of the Pods to schedule; default-scheduler if empty.
	Name string
	// Metrics count what happens; optional.
	Metrics *metrics.Set
	// Clock is the real one if nil.
	Clock clock.WithTicker
	// VolumeBindTimeout is how long a Pod waits until its claims are bound on the node that was chosen, before another
	// may be; 0 means 10 minutes.
	VolumeBindTimeout time.Duration
	// DeviceBindTimeout is how long devices may take to become ready after they were allocated, where they say that they have to;
	// 0 means 10 minutes.
	DeviceBindTimeout time.Duration
}

// Scheduler is one scheduler. Make it with New.
type Scheduler struct {
	cfg        Config
	namespaces corelisters.NamespaceLister
	budgets    policylisters.PodDisruptionBudgetLister
	synced     []cache.DoneChecker

	// mu guards what follows; the decisions are made under it too, so that one never sees half an event.
	mu      sync.Mutex
	cluster *cluster.Cluster
	queue   *queue.Queue
	// assumed are the Pods that were given a node and whose binding the API has not yet shown.
	assumed map[types.UID]string
	// binding are those of them whose volumes and devices are being bound.
	binding map[types.UID]*bindWait
	// gated are the Pods that have scheduling gates.
	gated map[types.UID]struct{}
	// devicesWatched says that a Pod has asked for devices, and devicesKnown that all there is to know of them is known.
	devicesWatched, devicesKnown bool
	// roomFollowed says that a driver has reported for how large volumes it has room.
	roomFollowed bool
	// wake has a token when the queue may have something to pop.
	wake chan struct{}

	cycle    *cycle.Cycle
	bindings writers
	// waits are those who wait for volumes, or preempt.
	waits sync.WaitGroup
}

// New registers for events; nothing is decided before Run.
func New(cfg Config) (*Scheduler, error) {
	if cfg.Name == "" {
		cfg.Name = corev1.DefaultSchedulerName
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.RealClock{}
	}
	if cfg.VolumeBindTimeout == 0 {
		cfg.VolumeBindTimeout = 10 * time.Minute
	}
	if cfg.DeviceBindTimeout == 0 {
		cfg.DeviceBindTimeout = 10 * time.Minute
	}
	rules := plugins.All()
	core, budgets := cfg.Informers.Core().V1(), cfg.Informers.Policy().V1().PodDisruptionBudgets()
	s := &Scheduler{
		cfg: cfg, namespaces: core.Namespaces().Lister(), budgets: budgets.Lister(), queue: queue.New(rules), cycle: cycle.New(rules),
		assumed: map[types.UID]string{}, binding: map[types.UID]*bindWait{}, gated: map[types.UID]struct{}{}, wake: make(chan struct{}, 1),
	}
	s.cluster = cluster.New(s.namespaceLabels)
	if cfg.Metrics != nil {
		s.cycle.Now, s.queue.Entered = cfg.Clock.Now, cfg.Metrics.Entered
	}
	s.cluster.Known().Devices.BindTimeout = cfg.DeviceBindTimeout
	storage, apps := cfg.Informers.Storage().V1(), cfg.Informers.Apps().V1()
	s.synced = []cache.DoneChecker{budgets.Informer().HasSyncedChecker()}
	if err := errors.Join(
		watch(s, core.Namespaces().Informer(), s.namespaceChanged),
		watch(s, core.Nodes().Informer(), s.nodeChanged),
		watch(s, core.Pods().Informer(), s.podChanged),
		watch(s, core.PersistentVolumeClaims().Informer(), s.claimChanged),
		watch(s, core.PersistentVolumes().Informer(), s.volumeChanged),
		watch(s, storage.StorageClasses().Informer(), s.classChanged),
		watch(s, storage.CSINodes().Informer(), s.csiNodeChanged),
		watch(s, storage.CSIDrivers().Informer(), s.csiDriverChanged),
		watch(s, storage.VolumeAttachments().Informer(), s.attachmentChanged),
		watch(s, core.Services().Informer(), s.serviceChanged),
		watch(s, core.ReplicationControllers().Informer(), s.replicationControllerChanged),
		watch(s, apps.ReplicaSets().Informer(), s.replicaSetChanged),
		watch(s, apps.StatefulSets().Informer(), s.statefulSetChanged),
	); err != nil {
		return nil, err
	}
	return s, nil
}

// watch has changed called for each object that appears (old nil), changes, or goes (new nil).
func watch[T any, P interface {
	*T
	comparable
}](s *Scheduler, informer cache.SharedIndexInformer, changed func(old, new P)) error {
	synced, err := handle(informer, changed)
	if err != nil {
		return err
	}
	s.synced = append(s.synced, synced)
	return nil
}

// handle does the work of watch, and returns what says that changed was called for all that was there.
func handle[T any, P interface {
	*T
	comparable
}](informer cache.SharedIndexInformer, changed func(old, new P)) (cache.DoneChecker, error) {
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(obj any) { changed(nil, obj.(P)) },
		UpdateFunc: func(old, obj any) { changed(old.(P), obj.(P)) },
		DeleteFunc: func(obj any) {
			if gone, ok := deleted[P](obj); ok {
				changed(gone, nil)
			}
		},
	})
	if err != nil {
		return nil, fmt.Errorf("watch %T: %w", *new(T), err)
	}
	return registration.HasSyncedChecker(), nil
}

func deleted[T any](obj any) (T, bool) {
	if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = gone.Obj
	}
	t, ok := obj.(T)
	return t, ok
}

func (s *Scheduler) namespaceLabels(name string) map[string]string {
	ns, err := s.namespaces.Get(name)
	if err != nil {
		return nil
	}
	return ns.Labels
}

// Run schedules until ctx ends and returns when no binding is under way.
func (s *Scheduler) Run(ctx context.Context) error {
	ctx = klog.NewContext(ctx, klog.FromContext(ctx).WithName("scheduler"))
	defer s.bindings.wait()
	defer s.waits.Wait()
	defer s.cfg.Metrics.Follow(s.waiting)()
	if !cache.WaitFor(ctx, "", s.synced...) {
		return nil
	}
	timer := s.cfg.Clock.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		if err := s.followRoom(ctx); err != nil {
			return err
		}
		next := s.drain(ctx)
		if !next.IsZero() {
			timer.Reset(max(0, next.Sub(s.cfg.Clock.Now())))
		}
		select {
		case <-ctx.Done():
			return nil
		case <-s.wake:
		case <-timer.C():
		}
	}
}

// drain decides on every Pod that can be tried now and returns when the next one can be; zero for not before an event.
func (s *Scheduler) drain(ctx context.Context) time.Time {
	for ctx.Err() == nil {
		s.mu.Lock()
		now := s.cfg.Clock.Now()
		pod := s.queue.Pop(now)
		if pod == nil {
			next := s.queue.Next()
			s.mu.Unlock()
			return next
		}
		if pod.MayNeedDevices() && s.early(ctx, pod) {
			s.mu.Unlock()
			continue
		}
		a := s.begin(pod, now)
		d := s.cycle.Decide(pod, s.cluster.View())
		s.decided(a, d)
		if d.Node == nil {
			then := s.nowhere(ctx, a, d)
			s.mu.Unlock()
			then()
			continue
		}
		err := s.assume(ctx, a, d.Node)
		s.mu.Unlock()
		if err != nil {
			s.reject(ctx, a, corev1.PodReasonSchedulerError, err.Error())
		}
	}
	return time.Time{}
}

// nowhere has a Pod for which there is no node wait. What it returns tells of that, and has done what may make one fit; it is to be called
// without mu, which the caller holds.
func (s *Scheduler) nowhere(ctx context.Context, a attempt, d cycle.Decision) (then func()) {
	pod := a.pod
	if d.Err != nil {
		s.queue.Failed(pod.UID, nil, s.cfg.Clock.Now())
		return func() { s.reject(ctx, a, corev1.PodReasonSchedulerError, d.Err.Error()) }
	}
	claim, what := dynamicresources.Unblock(pod, s.cluster.Known().Devices, d.Unblockable)
	message, preemption := s.preempt(pod, d, what)
	s.queue.Failed(pod.UID, d.RejectedBy, s.cfg.Clock.Now())
	return func() {
		s.reject(ctx, a, corev1.PodReasonUnschedulable, message)
		if claim != nil {
			s.waits.Go(func() { s.unblock(ctx, pod, claim) })
		}
		if preemption != nil {
			s.waits.Go(func() { s.carryOut(ctx, pod, preemption) })
		}
	}
}

// assume counts the Pod, and what its claims need, as on the node, and starts to tell the API so. The caller holds mu.
func (s *Scheduler) assume(ctx context.Context, a attempt, n *framework.Node) error {
	pod := a.pod
	volumes, devices, err := s.plan(pod, n)
	if err != nil {
		s.queue.Failed(pod.UID, nil, s.cfg.Clock.Now())
		return err
	}
	node := n.Node.Name
	s.assumed[pod.UID] = node
	s.cluster.SetPod(pod, node)
	if volumes == nil && devices == nil {
		s.bindings.do(func() { s.bound(ctx, a, node, s.bind(ctx, pod, node)) })
		return nil
	}
	wait := s.hold(pod, n, volumes, devices)
	s.waits.Go(func() {
		err := s.bindWithClaims(ctx, pod, node, wait)
		s.letGo(wait, err != nil)
		s.bound(ctx, a, node, err)
	})
	return nil
}

// plan says what the Pod's claims need on the node; nil for nothing. The caller holds mu.
func (s *Scheduler) plan(pod *framework.Pod, n *framework.Node) (volumes *framework.VolumePlan, devices *framework.DevicePlan, err error) {
	began := s.cfg.Clock.Now()
	defer func() { s.timed(framework.Reserve, began, framework.Outcome(err)) }()
	if volumes, err = volumebinding.Plan(pod, s.cluster.Known().Storage, n.Node); err != nil {
		return nil, nil, fmt.Errorf("running Reserve plugin %q: %w", volumebinding.Plugin{}.Name(), err)
	}
	if devices, err = dynamicresources.Plan(pod, s.cluster.Known().Devices, n); err != nil {
		return nil, nil, fmt.Errorf("running Reserve plugin %q: %w", dynamicresources.Plugin{}.Name(), err)
	}
	return volumes, devices, nil
}

func (s *Scheduler) signal() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// nodeChanged takes in that a node appeared (old nil), changed, or went (new nil).
func (s *Scheduler) nodeChanged(old, new *corev1.Node) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if new == nil {
		s.cluster.RemoveNode(old.Name)
	} else {
		s.cluster.SetNode(new)
	}
	s.queue.Happened(framework.Event{OldNode: old, NewNode: new}, s.cfg.Clock.Now())
	s.signal()
}

// namespaceChanged takes in that a namespace appeared (old nil), changed, or went (new nil).
func (s *Scheduler) namespaceChanged(old, new *corev1.Namespace) {
	if old != nil && new != nil && maps.Equal(old.Labels, new.Labels) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cluster.Known().Index.NamespaceChanged()
	s.queue.Happened(framework.Event{OldNamespace: old, NewNamespace: new}, s.cfg.Clock.Now())
	s.signal()
}

// podChanged takes in that a Pod appeared (old nil), changed, or went (new nil).
func (s *Scheduler) podChanged(old, new *corev1.Pod) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.cfg.Clock.Now()
	if new == nil {
		s.queue.Delete(old.UID)
		delete(s.assumed, old.UID)
		delete(s.gated, old.UID)
		s.binding[old.UID].end()
		s.cluster.RemovePod(old.UID)
		s.devicesLeft(old.UID)
		s.cluster.TakeBack(old.UID)
		s.queue.Happened(framework.Event{OldPod: old}, now)
		s.signal()
		return
	}
	if new.Spec.NodeName != "" {
		s.boundPod(old, new, now)
		return
	}
	s.gate(new)
	if !s.mine(new) {
		s.queue.Delete(new.UID)
		s.binding[new.UID].end()
		return
	}
	if _, ok := s.assumed[new.UID]; ok {
		return // its binding is under way
	}
	pod := framework.NewPod(new)
	// To a Pod that waits, more may have been promised here than is written yet: only what the API shows to have changed counts.
	if old == nil || !s.queue.Has(new.UID) || old.Status.NominatedNodeName != new.Status.NominatedNodeName {
		s.cluster.Promise(pod, new.Status.NominatedNodeName)
	}
	if old != nil && s.queue.Has(new.UID) && onlyStatusChanged(old, new) {
		s.queue.Refresh(pod) // most likely what we wrote ourselves
		return
	}
	s.queue.Put(pod, framework.PodChange(old, new), now)
	s.signal()
}

// boundPod takes in a Pod that has a node.
func (s *Scheduler) boundPod(old, new *corev1.Pod, now time.Time) {
	s.queue.Delete(new.UID)
	delete(s.assumed, new.UID)
	delete(s.gated, new.UID)
	s.cluster.TakeBack(new.UID)
	if old != nil && old.Spec.NodeName == "" {
		old = nil // newly bound
	}
	e := framework.Event{OldPod: old, NewPod: new}
	if framework.Finished(new) {
		s.cluster.RemovePod(new.UID)
		s.devicesLeft(new.UID)
	} else {
		was := s.cluster.Pod(new.UID)
		pod := was.Newer(new)
		if was != nil && old != nil {
			e.OldRequests, e.NewRequests = was.Requests, pod.Requests
		}
		s.cluster.SetPod(pod, new.Spec.NodeName)
	}
	s.queue.Happened(e, now)
	s.signal()
}

// mine says whether the Pod waits for this scheduler.
func (s *Scheduler) mine(p *corev1.Pod) bool {
	return p.Spec.SchedulerName == s.cfg.Name && p.DeletionTimestamp == nil && len(p.Spec.SchedulingGates) == 0 && !framework.Finished(p)
}
