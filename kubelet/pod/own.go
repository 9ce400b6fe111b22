package pod

import (
	"context"
	"fmt"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/peapod/peapod/kubelet/static"
)

// Static Pods are declared by files of this node, and no API server is asked about them. Two of one name never run at once: what a
// file said before ends first. Nor do two of one UID, which is a file that went and came back.

var (
	_ static.Runner = (*Manager)(nil)
	_ static.Holder = (*Manager)(nil)
)

// Declare implements static.Runner.
func (m *Manager) Declare(p *v1.Pod) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.next[nameOf(p)] = p
	m.startNext()
}

// Withdraw implements static.Runner.
func (m *Manager) Withdraw(p *v1.Pod) {
	m.mu.Lock()
	if next := m.next[nameOf(p)]; next != nil && next.UID == p.UID { // it never began
		delete(m.next, nameOf(p))
		m.mu.Unlock()
		return
	}
	w := m.workers[p.UID]
	m.mu.Unlock()
	if w == nil || !w.own {
		return
	}
	w.update(func() {
		if w.pod.DeletionTimestamp == nil {
			w.pod = withdrawn(w.pod, m.cfg.Clock.Now())
		}
	})
}

// withdrawn is a static Pod as one of the API is that is being deleted, with the grace that it asks for.
func withdrawn(p *v1.Pod, now time.Time) *v1.Pod {
	ending := *p
	ending.DeletionTimestamp = &metav1.Time{Time: now}
	ending.DeletionGracePeriodSeconds = p.Spec.TerminationGracePeriodSeconds
	return &ending
}

// over says whether a static Pod that was withdrawn has ended: there is no object that would keep what is left of it.
func (w *worker) over(p *v1.Pod) bool {
	return w.own && p.DeletionTimestamp != nil && w.state >= Finished
}

// StaticKnown implements static.Holder.
func (m *Manager) StaticKnown() <-chan struct{} { return m.settled }

// HasStatic implements static.Holder. A Pod that waits for another to end is on the node.
func (m *Manager) HasStatic(name types.NamespacedName) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.next[name] != nil || m.ownWorker(name, "") != nil
}

// ownWorker returns a worker of a static Pod of that name or UID, nil for none; the caller holds m.mu.
func (m *Manager) ownWorker(name types.NamespacedName, uid types.UID) *worker {
	for _, w := range m.workers {
		if w.own && (w.name == name || w.uid == uid) {
			return w
		}
	}
	return nil
}

// startNext starts the static Pods that need wait no longer; the caller holds m.mu.
func (m *Manager) startNext() {
	for name, p := range m.next {
		if m.ownWorker(name, p.UID) != nil || m.workers[p.UID] != nil {
			continue
		}
		delete(m.next, name)
		w := newWorker(m, p)
		m.workers[p.UID] = w
		m.byName[name] = p.UID
		m.start(w)
	}
}

// adoptOwn makes workers for static Pods and for what earlier ones left on this node, which end.
func (m *Manager) adoptOwn(ctx context.Context, own []*v1.Pod) error {
	left, err := m.orphans(ctx)
	if err != nil {
		return fmt.Errorf("adopt static pods: %w", err)
	}
	for _, p := range own {
		delete(left, p.UID)
	}
	m.mu.Lock()
	for uid, p := range left {
		if static.Is(p) {
			m.workers[uid] = m.orphan(ctx, p)
		}
	}
	m.mu.Unlock()
	for _, p := range own {
		m.Declare(p)
		if w := m.worker(p.UID); w != nil {
			m.restore(ctx, w)
		}
	}
	return nil
}

func nameOf(p *v1.Pod) types.NamespacedName {
	return types.NamespacedName{Namespace: p.Namespace, Name: p.Name}
}
