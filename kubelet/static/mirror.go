package static

import (
	"context"
	"fmt"
	"maps"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	"k8s.io/klog/v2"

	"github.com/peapod/peapod/internal/keyqueue"
)

// Status publishes the status of Pods of the API.
type Status interface {
	Set(p *v1.Pod, status v1.PodStatus, final bool)
	Tried(ctx context.Context, uid types.UID) error
	Forget(uid types.UID)
	Observe(p *v1.Pod)
}

// Holder has the Pods of the node.
type Holder interface {
	// StaticKnown is closed once HasStatic can be asked.
	StaticKnown() <-chan struct{}
	// HasStatic says whether a static Pod of that name is on the node, be it that it ends.
	HasStatic(name types.NamespacedName) bool
}

// MirrorsConfig is what Mirrors are made from; all of it is required.
type MirrorsConfig struct {
	NodeName string
	// Client acts as the node.
	Client kubernetes.Interface
	// Node is the Node object of this node, which owns the mirrors; an error while there is none.
	Node func() (*v1.Node, error)
	// Registered is closed once there was one.
	Registered <-chan struct{}
	// Pods has the static Pods of the node.
	Pods Holder
	// Status publishes the mirrors' status.
	Status Status
}

// Mirrors shows static Pods in the API. It stands between who runs Pods and who publishes what becomes of them: status of static
// Pods goes to their mirrors, that of others passes. Nothing is done, or even allocated, while there are none.
type Mirrors struct {
	cfg   MirrorsConfig
	queue *keyqueue.Queue[types.NamespacedName]
	used  chan struct{} // closed at the first key
	once  sync.Once

	mu   sync.Mutex
	pods map[types.NamespacedName]*shown
}

// shown is a static Pod and its mirror; either may be missing.
type shown struct {
	pod    *v1.Pod // as it runs; being deleted when it ends
	status v1.PodStatus
	mirror *v1.Pod // as the API has it
}

// NewMirrors makes Mirrors; Run has them written.
func NewMirrors(cfg MirrorsConfig) *Mirrors {
	m := &Mirrors{cfg: cfg, used: make(chan struct{}), pods: map[types.NamespacedName]*shown{}}
	m.queue = &keyqueue.Queue[types.NamespacedName]{Name: "mirror-pods", Sync: m.sync}
	return m
}

// Run writes mirrors until ctx ends, once there is one to write, and it was observed which there are: seen says so.
func (m *Mirrors) Run(ctx context.Context, seen cache.DoneChecker) error {
	for _, first := range []<-chan struct{}{m.used, m.cfg.Registered, m.cfg.Pods.StaticKnown()} {
		select {
		case <-first:
		case <-ctx.Done():
			return nil
		}
	}
	m.queue.Synced = []cache.DoneChecker{seen}
	return m.queue.Run(ctx)
}

// look has a mirror be compared with its Pod.
func (m *Mirrors) look(name types.NamespacedName) {
	m.once.Do(func() { close(m.used) })
	m.queue.Add(name)
}

func nameOf(p *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}

// entry returns what is known of a name; the caller holds m.mu.
func (m *Mirrors) entry(name types.NamespacedName) *shown {
	e := m.pods[name]
	if e == nil {
		e = &shown{}
		m.pods[name] = e
	}
	return e
}

// Set publishes the status of a Pod. What a mirror says last is said before it goes: final is not asked.
func (m *Mirrors) Set(p *v1.Pod, status v1.PodStatus, final bool) {
	if !Is(p) {
		m.cfg.Status.Set(p, status, final)
		return
	}
	name := nameOf(p)
	m.mu.Lock()
	e := m.entry(name)
	fresh := e.pod == nil || e.pod.UID != p.UID
	e.pod, e.status = p, status
	m.publish(e)
	compare := fresh || e.step() != nothing
	m.mu.Unlock()
	if compare {
		m.look(name)
	}
}

// publish shows a Pod's status on its mirror, if that is of this Pod; the caller holds m.mu.
func (m *Mirrors) publish(e *shown) {
	if e.step() == nothing && e.pod != nil && e.mirror != nil {
		m.cfg.Status.Set(e.mirror, since(e.status, &e.mirror.Status), false)
	}
}

// since is a status with the times that the mirror has where it says the same: they outlive this process there.
func since(s v1.PodStatus, mirror *v1.PodStatus) v1.PodStatus {
	if mirror.StartTime != nil {
		s.StartTime = mirror.StartTime
	}
	conditions := make([]v1.PodCondition, len(s.Conditions))
	for i, c := range s.Conditions {
		for _, old := range mirror.Conditions {
			if old.Type == c.Type && old.Status == c.Status && !old.LastTransitionTime.IsZero() {
				c.LastTransitionTime = old.LastTransitionTime
			}
		}
		conditions[i] = c
	}
	s.Conditions = conditions
	return s
}

// Tried returns when what Set last said of the Pod is published, or a try to publish it has failed.
func (m *Mirrors) Tried(ctx context.Context, p *v1.Pod) error {
	if !Is(p) {
		return m.cfg.Status.Tried(ctx, p.UID)
	}
	m.mu.Lock()
	e := m.pods[nameOf(p)]
	if e == nil || e.mirror == nil {
		m.mu.Unlock()
		return nil
	}
	uid := e.mirror.UID
	m.mu.Unlock()
	return m.cfg.Status.Tried(ctx, uid)
}

// Forget says that a Pod is gone from the node.
func (m *Mirrors) Forget(p *v1.Pod) {
	if !Is(p) {
		m.cfg.Status.Forget(p.UID)
		return
	}
	name := nameOf(p)
	m.mu.Lock()
	if e := m.entry(name); e.pod != nil && e.pod.UID == p.UID {
		e.pod, e.status = nil, v1.PodStatus{}
	}
	m.mu.Unlock()
	m.look(name)
}

// Observe takes a mirror as the API has it now.
func (m *Mirrors) Observe(mirror *v1.Pod) {
	name := nameOf(mirror)
	m.mu.Lock()
	e := m.entry(name)
	fresh := e.mirror == nil || e.mirror.UID != mirror.UID
	if e.mirror != nil && fresh {
		m.cfg.Status.Forget(e.mirror.UID)
	}
	e.mirror = mirror
	if fresh {
		m.publish(e)
	} else {
		m.cfg.Status.Observe(mirror)
	}
	compare := e.step() != nothing
	m.mu.Unlock()
	if compare {
		m.look(name)
	}
}

// Gone says that a mirror has left the API.
func (m *Mirrors) Gone(mirror *v1.Pod) {
	name := nameOf(mirror)
	m.mu.Lock()
	e := m.entry(name)
	if e.mirror != nil && e.mirror.UID == mirror.UID {
		e.mirror = nil
	}
	m.cfg.Status.Forget(mirror.UID)
	m.mu.Unlock()
	m.look(name)
}

// step is what is to be done about a mirror.
type step int

const (
	nothing step = iota
	create
	remove
	// drop removes a mirror of no Pod that is known here.
	drop
)

// step compares a mirror with its Pod. A mirror is never changed, but for its status: it is made anew.
func (e *shown) step() step {
	switch {
	case e.mirror == nil && (e.pod == nil || e.pod.DeletionTimestamp != nil):
		return nothing
	case e.mirror == nil:
		return create
	case e.pod == nil:
		return drop
	case e.mirror.DeletionTimestamp != nil, e.mirror.Annotations[mirrorAnnotation] != e.pod.Annotations[hashAnnotation]:
		return remove
	case over(&e.mirror.Status) && !over(&e.status): // its Pod was started anew
		return remove
	}
	return nothing
}

func over(s *v1.PodStatus) bool { return s.Phase == v1.PodSucceeded || s.Phase == v1.PodFailed }

// sync takes the next step for a mirror. What comes of it is seen, and brings the one after that.
func (m *Mirrors) sync(ctx context.Context, name types.NamespacedName) error {
	m.mu.Lock()
	e := m.pods[name]
	if e == nil {
		m.mu.Unlock()
		return nil
	}
	do, pod, mirror := e.step(), e.pod, e.mirror
	if pod == nil && mirror == nil {
		delete(m.pods, name)
	}
	m.mu.Unlock()
	switch do {
	case create:
		return m.create(ctx, pod)
	case remove:
		return m.remove(ctx, mirror)
	case drop:
		if m.cfg.Pods.HasStatic(name) {
			return nil // it says soon what it is
		}
		return m.remove(ctx, mirror)
	}
	return nil
}

// create makes the mirror of a Pod.
func (m *Mirrors) create(ctx context.Context, pod *v1.Pod) error {
	node, err := m.cfg.Node()
	if err != nil {
		return fmt.Errorf("make mirror of pod %s: %w", nameOf(pod), err)
	}
	yes := true
	mirror := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			Name: pod.Name, Namespace: pod.Namespace, Labels: pod.Labels, Annotations: maps.Clone(pod.Annotations),
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID, Controller: &yes}},
		},
		Spec: pod.Spec,
	}
	mirror.Annotations[mirrorAnnotation] = pod.Annotations[hashAnnotation]
	_, err = m.cfg.Client.CoreV1().Pods(pod.Namespace).Create(ctx, mirror, metav1.CreateOptions{})
	switch {
	case apierrors.IsAlreadyExists(err):
		m.mu.Lock()
		e := m.pods[nameOf(pod)]
		seen := e != nil && e.mirror != nil
		m.mu.Unlock()
		if seen {
			return nil // it came meanwhile
		}
		return fmt.Errorf("make mirror of pod %s: %w: if it is no mirror, delete it or rename the static pod", nameOf(pod), err)
	case err != nil:
		return fmt.Errorf("make mirror of pod %s: %w", nameOf(pod), err)
	}
	klog.FromContext(ctx).Info("Created mirror pod", "pod", klog.KObj(pod), "podUID", pod.UID)
	return nil
}

// remove deletes a mirror at once: nothing runs behind it that would need time.
func (m *Mirrors) remove(ctx context.Context, mirror *v1.Pod) error {
	zero := int64(0)
	err := m.cfg.Client.CoreV1().Pods(mirror.Namespace).Delete(ctx, mirror.Name, metav1.DeleteOptions{
		GracePeriodSeconds: &zero, Preconditions: &metav1.Preconditions{UID: &mirror.UID},
	})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("delete mirror pod %s: %w", nameOf(mirror), err)
	}
	if err == nil {
		klog.FromContext(ctx).Info("Deleted mirror pod", "pod", klog.KObj(mirror), "podUID", mirror.UID)
	}
	return nil
}
