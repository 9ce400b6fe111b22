package pod

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/kubelet/criconfig"
	"github.com/peapod/peapod/kubelet/static"
)

// adopt makes a worker for every Pod that the API binds here and for every one
// that left something on this node. The latter end like deleted Pods.
func (m *Manager) adopt(ctx context.Context, pods []*v1.Pod) error {
	var live []*v1.Pod
	for _, p := range pods {
		m.Upsert(p)
		if p.Status.Phase != v1.PodSucceeded && p.Status.Phase != v1.PodFailed {
			live = append(live, p)
			m.restore(ctx, m.worker(p.UID))
		}
	}
	orphans, err := m.orphans(ctx)
	if err != nil {
		return fmt.Errorf("adopt pods: %w", err)
	}
	m.mu.Lock()
	for _, w := range m.workers {
		if w.own {
			live = append(live, w.pod)
		}
	}
	for uid, p := range orphans {
		if m.workers[uid] == nil {
			m.workers[uid] = m.orphan(ctx, p)
		}
	}
	m.mu.Unlock()
	if err := m.cfg.Volumes.Adopt(ctx, live); err != nil {
		return fmt.Errorf("adopt volumes: %w", err)
	}
	return nil
}

// orphan makes the worker of a Pod that nobody wants here any more.
func (m *Manager) orphan(ctx context.Context, p *v1.Pod) *worker {
	klog.FromContext(ctx).Info("Ending what a pod that is gone left on this node", "pod", klog.KObj(p), "podUID", p.UID)
	if static.Is(p) { // its file went, or says something else now: nothing was said yet to what runs
		return newWorker(m, withdrawn(p, m.cfg.Clock.Now()))
	}
	w := newWorker(m, p)
	w.deleted = true
	return w
}

// restore takes up what an earlier process gave to a Pod, before anybody asks
// what room there is. Such a Pod was admitted.
func (m *Manager) restore(ctx context.Context, w *worker) {
	w.mu.Lock()
	defer w.mu.Unlock()
	record, err := m.allocations.Load(w.uid)
	if err != nil {
		m.log(ctx, w.pod).Error(err, "What a pod was given is not known any more; it counts as given what its spec says")
	}
	if record == nil {
		return
	}
	w.allocated, w.admitted, w.holds = record, true, true
	if c := condition(w.pod.Status.Conditions, v1.PodResizePending); c != nil {
		w.pending = &Pending{
			Refusal: Refusal{Reason: c.Reason, Message: c.Message}, Generation: c.ObservedGeneration, Since: c.LastTransitionTime.Time,
		}
	}
}

// orphans describes, from labels, directories, IDs, claims and cgroups, all Pods of which
// the node has anything.
func (m *Manager) orphans(ctx context.Context) (map[types.UID]*v1.Pod, error) {
	found := map[types.UID]*v1.Pod{}
	get := func(uid, namespace, name string) *v1.Pod {
		p := found[types.UID(uid)]
		if p == nil {
			zero := int64(0)
			p = &v1.Pod{ObjectMeta: metav1.ObjectMeta{UID: types.UID(uid), DeletionGracePeriodSeconds: &zero}}
			found[p.UID] = p
		}
		if p.Name == "" {
			p.Namespace, p.Name = namespace, name
		}
		return p
	}
	sandboxes, err := m.cfg.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	for _, s := range sandboxes {
		if md := s.Metadata; s.Labels[criconfig.LabelPodUID] != "" {
			get(md.GetUid(), md.GetNamespace(), md.GetName()).Annotations = s.Annotations
		}
	}
	containers, err := m.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers {
		if uid := c.Labels[criconfig.LabelPodUID]; uid != "" {
			describe(get(uid, c.Labels[criconfig.LabelPodNamespace], c.Labels[criconfig.LabelPodName]), c)
		}
	}
	cgroups, err := m.cfg.Cgroups.Pods()
	if err != nil {
		return nil, err
	}
	for uid := range cgroups {
		get(string(uid), "", "")
	}
	for _, uid := range m.cfg.UserNS.Pods() {
		get(string(uid), "", "")
	}
	claimants, err := m.cfg.Devices.Pods()
	if err != nil {
		return nil, err
	}
	for _, uid := range claimants {
		get(string(uid), "", "")
	}
	if m.cfg.Plugins != nil {
		for _, uid := range m.cfg.Plugins.Pods() {
			get(string(uid), "", "")
		}
	}
	dirs, err := list(filepath.Join(m.cfg.RootDir, "pods"))
	if err != nil {
		return nil, err
	}
	for _, uid := range dirs {
		get(uid, "", "")
	}
	logs, err := list(m.cfg.LogDir)
	if err != nil {
		return nil, err
	}
	for _, dir := range logs {
		if parts := strings.Split(dir, "_"); len(parts) == 3 {
			get(parts[2], parts[0], parts[1])
		}
	}
	return found, nil
}

// describe adds what a container's annotations tell of its spec.
func describe(p *v1.Pod, c *runtimeapi.Container) {
	name := c.Labels[criconfig.LabelContainerName]
	if FindContainer(p, name) == nil {
		spec := v1.Container{Name: name}
		if h := preStopOf(c.Annotations); h != nil {
			spec.Lifecycle = &v1.Lifecycle{PreStop: h}
		}
		p.Spec.Containers = append(p.Spec.Containers, spec)
	}
	if n, err := strconv.ParseInt(c.Annotations[criconfig.AnnotationTerminationGrace], 10, 64); err == nil {
		p.Spec.TerminationGracePeriodSeconds = &n
	}
}

func list(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		if errors.Is(err, os.ErrNotExist) {
			return nil, nil
		}
		return nil, fmt.Errorf("list directory: %w", err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// Without events the runtime is asked as often as Kubernetes' own kubelet asks.
const relistWithoutEvents = time.Second

// watchRuntime turns news of the runtime into wake-ups until ctx ends. While
// the runtime sends no events, it is listed often instead, and asked for events
// again each time.
func (m *Manager) watchRuntime(ctx context.Context) {
	events := make(chan *runtimeapi.ContainerEventResponse, 1024)
	up, broken := make(chan struct{}, 1), make(chan error, 1)
	listen := func() {
		m.wg.Go(func() {
			broken <- m.cfg.Runtime.GetContainerEvents(ctx, events, func(runtimeapi.RuntimeService_GetContainerEventsClient) {
				select {
				case up <- struct{}{}:
				default:
				}
			})
		})
	}
	listen()
	streaming, listening := true, true
	states := map[string]int32{}
	for {
		if err := m.relist(ctx, states); err != nil && ctx.Err() == nil {
			klog.FromContext(ctx).Error(err, "Listing what the runtime has failed")
		}
		period := m.cfg.Relist
		if !streaming {
			period = relistWithoutEvents
		}
		timer := m.cfg.Clock.NewTimer(period)
		for due := false; !due; {
			select {
			case <-ctx.Done():
				timer.Stop()
				return
			case e := <-events:
				streaming = true
				m.runtimeEvent(e)
			case <-up:
				due, streaming = true, true // what happened before it came up is found by listing
			case err := <-broken:
				if streaming && ctx.Err() == nil {
					klog.FromContext(ctx).Info("The runtime's event stream ended; listing every second until it is back", "err", err)
				}
				due = streaming
				streaming, listening = false, false
			case <-timer.C():
				due = true
				if !listening {
					listening = true
					listen()
				}
			}
		}
		timer.Stop()
	}
}

// runtimeEvent wakes the worker that an event concerns.
func (m *Manager) runtimeEvent(e *runtimeapi.ContainerEventResponse) {
	uid := types.UID(e.GetPodSandboxStatus().GetMetadata().GetUid())
	m.mu.Lock()
	if uid == "" {
		uid = m.owner[e.ContainerId]
	}
	w := m.workers[uid]
	var all []*worker
	if w == nil && uid == "" { // an ID never seen: whoever it is will look
		for _, w := range m.workers {
			all = append(all, w)
		}
	}
	m.mu.Unlock()
	if w != nil {
		all = append(all, w)
	}
	for _, w := range all {
		w.update(func() { w.dirty = true })
	}
}

// relist wakes the workers of all that changed since the last time.
func (m *Manager) relist(ctx context.Context, states map[string]int32) error {
	sandboxes, err := m.cfg.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := m.cfg.Runtime.ListContainers(ctx, nil)
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	seen := map[string]bool{}
	changed := map[types.UID]bool{}
	check := func(id, uid string, state int32) {
		seen[id] = true
		if old, ok := states[id]; !ok || old != state {
			changed[types.UID(uid)] = true
		}
		states[id] = state
	}
	for _, s := range sandboxes {
		check(s.Id, s.Labels[criconfig.LabelPodUID], int32(s.State))
	}
	for _, c := range containers {
		check(c.Id, c.Labels[criconfig.LabelPodUID], int32(c.State))
	}
	m.mu.Lock()
	for id := range states {
		if !seen[id] {
			changed[m.owner[id]] = true
			delete(states, id)
		}
	}
	m.mu.Unlock()
	for uid := range changed {
		if w := m.worker(uid); w != nil {
			w.update(func() { w.dirty = true })
		}
	}
	return nil
}
